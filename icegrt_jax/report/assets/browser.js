// The browser: prompts with their answers side by side, sorted, filtered, differences marked, tokens coloured.
const perPage = 10;

function diffed(text, against) {
  // Words that are not in a longest common subsequence with the other answer.
  const ours = text.split(/(\s+)/), theirs = against.split(/\s+/).filter(Boolean);
  const words = ours.map((word, i) => [word, i]).filter(([word]) => word.trim());
  if (words.length * theirs.length > 400000) return ours.map((word) => [word, false]);
  const table = Array.from({ length: words.length + 1 }, () => new Uint16Array(theirs.length + 1));
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = theirs.length - 1; j >= 0; j--) {
      table[i][j] = words[i][0] === theirs[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const changed = new Set(words.map(([, at]) => at));
  for (let i = 0, j = 0; i < words.length && j < theirs.length;) {
    if (words[i][0] === theirs[j]) changed.delete(words[i++][1]), j++;
    else if (table[i + 1][j] >= table[i][j + 1]) i++;
    else j++;
  }
  return ours.map((word, i) => [word, changed.has(i)]);
}

function coloured(answer, key, most) {
  const numbers = answer.of_tokens[key];
  return answer.tokens.map((piece, i) => {
    const value = numbers[i] ?? 0, alpha = (0.6 * Math.min(Math.abs(value) / most, 1)).toFixed(2);
    const token = make("span", { class: "token", title: `${read(value)}` }, piece);
    token.style.backgroundColor = `rgba(var(--${value < 0 ? "cold" : "hot"}), ${alpha})`;
    return token;
  });
}

class Browser {
  constructor(collections, parent) {
    this.collections = collections;
    this.parent = parent;
    this.list = make("div", {});
    this.count = make("p", { class: "note", role: "status" });
    this.legend = make("p", { class: "legend" });
    this.pages = make("div", { class: "controls pages" });
    this.controls = make("div", { class: "controls" });
    parent.append(this.controls, this.count, this.legend, this.list, this.pages);
    this.take(0);
  }

  take(index) {
    this.collection = this.collections[index];
    const { by, measures, colours, kinds } = this.collection;
    this.state = {
      index, text: "", kind: "", sort: "", of: by[by.length - 1], down: true, measure: measures[0]?.key || "", low: "",
      high: "", against: "", colour: "", page: 0, shown: new Set(by.filter((name) => !/\((greedy|at its best)\)$/.test(name))),
    };
    if (this.collection.key !== "answers") this.state.shown = new Set(by);
    this.state.of = [...this.state.shown].pop() || by[by.length - 1];
    this.most = Object.fromEntries(colours.map(({ key }) => [key, this.scale(key)]));
    this.controlsAgain(measures, colours, kinds, by);
    this.refresh();
  }

  scale(key) {
    const sizes = this.collection.items.flatMap((item) => item.answers.flatMap((a) => (a.of_tokens?.[key] || []).map(Math.abs)));
    sizes.sort((a, b) => a - b);
    return sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  }

  choice(label, options, key) {
    const select = make("select", { "data-key": key });
    for (const [value, text] of options) select.append(make("option", { value, selected: value === this.state[key] }, text));
    select.addEventListener("change", () => this.set(key, select.value));
    return make("label", {}, label, select);
  }

  field(label, key, attributes) {
    const input = make("input", { "data-key": key, ...attributes });
    input.addEventListener("input", () => this.set(key, input.value));
    return make("label", {}, label, input);
  }

  set(key, value) {
    this.state[key] = value;
    this.state.page = 0;
    this.refresh();
  }

  controlsAgain(measures, colours, kinds, by) {
    const which = make("select", { "data-key": "collection" });
    this.collections.forEach((one, i) => which.append(make("option", { value: i, selected: i === this.state.index }, one.title)));
    which.addEventListener("change", () => {
      this.take(Number(which.value));
      this.controls.querySelector("[data-key=collection]").focus();
    });
    const own = this.collection.key === "answers";
    const sorts = measures.map(({ key, title }) => [key, title]);
    if (own) sorts.push(...measures.filter(({ key }) => key !== "kl").map(({ key, title }) => [`gain:${key}`, `${title}, gain over ${this.start()}`]));
    const down = make("button", { type: "button", "data-key": "down" }, "Highest first");
    down.addEventListener("click", () => {
      this.state.down = !this.state.down;
      down.textContent = this.state.down ? "Highest first" : "Lowest first";
      this.set("page", 0);
    });
    const span = make("span", { class: "span" },
      this.number("low", "at least"), "to", this.number("high", "at most"));
    this.controls.replaceChildren(...[
      make("label", {}, "Show", which),
      this.field("Search in prompts and answers", "text", { type: "search" }),
      kinds.length > 1 ? this.choice("Kind of prompt", [["", "all"], ...kinds.map((kind) => [kind, kind.replaceAll("_", " ")])], "kind") : null,
      this.choice("Sort by", [["", "order of the run"], ...sorts], "sort"),
      own ? this.choice("of the answer by", by.map((name) => [name, name]), "of") : null,
      down,
      this.choice("Only where", sorts.filter(([key]) => !key.startsWith("gain:")), "measure"),
      make("fieldset", {}, make("legend", {}, "is from … to"), span),
      by.length > 1 ? this.choice("Mark differences to", [["", "nothing"], ["before", "the answer before"], ...(own ? by.map((name) => [name, name]) : [])], "against") : null,
      colours.length ? this.choice("Colour tokens by", [["", "nothing"], ...colours.map(({ key, title }) => [key, title])], "colour") : null,
      own ? this.whose(by) : null,
    ].filter(Boolean));
  }

  number(key, label) {
    const input = make("input", { type: "number", step: "any", "data-key": key, "aria-label": label });
    input.addEventListener("input", () => this.set(key, input.value));
    return input;
  }

  whose(by) {
    const box = make("fieldset", { class: "ticks" }, make("legend", {}, "Answers by"));
    for (const name of by) {
      const tick = make("input", { type: "checkbox", checked: this.state.shown.has(name), value: name });
      tick.addEventListener("change", () => {
        this.state.shown[tick.checked ? "add" : "delete"](name);
        this.set("page", 0);
      });
      box.append(make("label", {}, tick, name));
    }
    return box;
  }

  start() {
    // What a gain is over: what PPO begins with, where it is there.
    const { by } = this.collection;
    return by.includes("ICE-Instruct") ? "ICE-Instruct" : by[0];
  }

  tell() {
    const { colour } = this.state, most = read(this.most[colour]);
    this.legend.replaceChildren();
    this.legend.hidden = !colour;
    if (colour) this.legend.append(`${this.collection.colours.find(({ key }) => key === colour).title}: −${most}`, make("i", {}), `+${most}`);
  }

  answerOf(item) {
    if (this.collection.key !== "answers") return item.answers[item.answers.length - 1];
    return item.answers.find((answer) => answer.by === this.state.of);
  }

  value(item, key) {
    const own = this.answerOf(item)?.numbers, gain = key.startsWith("gain:"), name = key.replace("gain:", "");
    if (!own || own[name] === undefined) return null;
    if (!gain) return own[name];
    const first = item.answers.find((answer) => answer.by === this.start())?.numbers[name];
    return first === undefined ? null : own[name] - first;
  }

  chosen() {
    const { text, kind, sort, down, measure, low, high } = this.state, wanted = text.trim().toLowerCase();
    const found = this.collection.items.map((item, at) => ({ item, at })).filter(({ item }) => {
      if (kind && item.kind !== kind) return false;
      if (wanted && ![...item.prompt.map((m) => m.content), ...item.answers.map((a) => a.text)]
        .some((said) => said.toLowerCase().includes(wanted))) return false;
      if (low === "" && high === "") return true;
      const value = this.value(item, measure);
      return value !== null && (low === "" || value >= Number(low)) && (high === "" || value <= Number(high));
    });
    const sign = down ? -1 : 1, key = ({ item }) => this.value(item, sort);
    if (sort) {
      found.sort((a, b) => (key(a) === null) - (key(b) === null) || sign * (key(a) - key(b)) || a.at - b.at);
    }
    return found;
  }

  refresh() {
    const found = this.chosen(), last = Math.max(Math.ceil(found.length / perPage) - 1, 0), c = this.collection;
    this.state.page = Math.min(this.state.page, last);
    const from = this.state.page * perPage, shown = found.slice(from, from + perPage);
    const left = c.total > c.items.length ? `; the run has ${c.total}, of which ${c.items.length} are kept here` : "";
    this.count.textContent = `${found.length} of ${c.items.length} shown (${c.note})${left}.`;
    this.tell();
    this.list.replaceChildren(...shown.map(({ item, at }) => this.card(item, at)));
    this.pages.replaceChildren();
    if (last > 0) {
      const go = (text, to, off) => {
        const button = make("button", { type: "button", disabled: off }, text);
        button.addEventListener("click", () => {
          this.state.page = to;
          this.refresh();
          this.count.scrollIntoView();
        });
        return button;
      };
      this.pages.append(go("Earlier", this.state.page - 1, this.state.page === 0),
        make("span", {}, `page ${this.state.page + 1} of ${last + 1}`), go("Later", this.state.page + 1, this.state.page === last));
    }
  }

  card(item, at) {
    const title = [`${at + 1}`, item.step ? `iteration ${item.step}` : "", (item.kind || "").replaceAll("_", " ")];
    const said = item.prompt.flatMap((message) => [
      item.prompt.length > 1 ? make("span", { class: "role" }, message.role) : null,
      make("p", { class: "said" }, message.content),
    ]);
    const reference = item.reference ? make("details", {}, make("summary", {}, "reference"), make("p", { class: "said" }, item.reference)) : null;
    const answers = item.answers.filter((answer) => this.state.shown.has(answer.by));
    const cells = answers.map((answer, i) => this.answer(answer, answers[i - 1], item));
    return make("article", { class: "item" }, make("h3", {}, title.filter(Boolean).join(" · ")),
      ...said, reference, make("div", { class: "answers" }, ...cells));
  }

  answer(answer, before, item) {
    const { against, colour } = this.state;
    const titles = Object.fromEntries(this.collection.measures.map(({ key, title }) => [key, title]));
    const told = this.collection.measures.map(({ key }) => key).filter((key) => key in answer.numbers);
    const said = (keys) => keys.map((key) => `${titles[key]} ${read(answer.numbers[key])}`).join(" · ");
    const first = told.filter((key) => this.collection.first.includes(key)), more = told.filter((key) => !first.includes(key));
    const numbers = make("p", { class: "numbers" }, said(first));
    const others = more.length ? make("details", { class: "numbers" }, make("summary", {}, "all numbers"), said(more)) : null;
    const text = make("p", { class: "said" });
    const other = against === "before" ? before : item.answers.find((one) => one.by === against);
    if (colour && answer.of_tokens?.[colour]) text.append(...coloured(answer, colour, this.most[colour]));
    else if (against && other && other !== answer) {
      for (const [word, changed] of diffed(answer.text, other.text)) text.append(changed ? make("mark", {}, word) : word);
    } else text.append(answer.text);
    return make("section", { class: "answer" }, make("h4", {}, answer.by), numbers, text, others);
  }
}
