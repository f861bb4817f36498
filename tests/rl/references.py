"""Every estimator once more, in float64 NumPy and plain loops, for the tests to compare with.

Written from the papers and not from `icegrt_jax.rl`: no vectorization, no masks in arithmetic,
padding is simply never visited.
"""

import math

import numpy as np


def valid(x, mask) -> list[float]:
    """The valid elements, as a flat list."""
    return [float(v) for v, m in zip(np.ravel(x), np.ravel(mask)) if m]


def mean(x, mask) -> float:
    elements = valid(x, mask)
    return sum(elements) / len(elements) if elements else 0.0


def var(x, mask) -> float:
    m = mean(x, mask)
    return sum((v - m) ** 2 for v in valid(x, mask)) / len(valid(x, mask))


def whiten(x, mask, shift_mean=True):
    out = np.zeros(np.shape(x))
    m, std = mean(x, mask), math.sqrt(var(x, mask) + 1e-8)
    for b, t in np.argwhere(mask):
        out[b, t] = (float(x[b, t]) - m) / std + (0.0 if shift_mean else m)
    return out


def gae(rewards, values, mask, gamma, lam, bootstrap=None):
    """Schulman et al. 2016, eq. 16, as the explicit sum over l of (gamma * lam)^l * delta_{t+l}."""
    advantages = np.zeros(np.shape(rewards))
    returns = np.zeros(np.shape(rewards))
    for b in range(len(rewards)):
        n = int(np.sum(mask[b]))
        after = 0.0 if bootstrap is None else float(bootstrap[b])
        v = [float(values[b][t]) for t in range(n)] + [after]
        deltas = [float(rewards[b][t]) + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            advantages[b, t] = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
            returns[b, t] = advantages[b, t] + v[t]
    return advantages, returns


def token_rewards(scores, kl, mask, kl_coef):
    out = np.zeros(np.shape(kl))
    for b in range(len(kl)):
        n = int(np.sum(mask[b]))
        for t in range(n):
            out[b, t] = -kl_coef * float(kl[b][t])
        if n:
            out[b, n - 1] += float(scores[b])
    return out


def kl_estimate(logprob: float, ref_logprob: float, kind: str) -> float:
    r = math.exp(ref_logprob) / math.exp(logprob)
    return {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": r - 1 - math.log(r)}[kind]


def softmax(logits) -> list[float]:
    exps = [math.exp(x) for x in logits]
    return [e / sum(exps) for e in exps]


def exact_kl(logits, ref_logits) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(logits), softmax(ref_logits)) if p > 0)


def adaptive_kl(kl_coef, kl, n, target, horizon) -> float:
    error = (kl - target) / target
    return kl_coef * (1 + max(-0.2, min(0.2, error)) * n / horizon)


def ppo_policy_loss(logprobs, old_logprobs, advantages, mask, low, high, dual_clip=0.0):
    """The objectives of arXiv 1707.06347 and, where A < 0, of arXiv 1912.09729; their mean, negated."""
    losses, ratios, clipped, dual_clipped, kls = [], [], [], [], []
    for b, t in np.argwhere(mask):
        a = float(advantages[b, t])
        ratio = math.exp(float(logprobs[b, t]) - float(old_logprobs[b, t]))
        limited = max(1 - low, min(1 + high, ratio))
        objective = min(ratio * a, limited * a)
        clipped.append(limited * a < ratio * a)
        dual_clipped.append(bool(dual_clip) and a < 0 and objective < dual_clip * a)
        if dual_clip and a < 0:
            objective = max(objective, dual_clip * a)
        losses.append(-objective)
        ratios.append(ratio)
        kls.append(ratio - 1 - math.log(ratio))
    metrics = {"ratio": np.mean(ratios), "clip_frac": np.mean(clipped), "approx_kl": np.mean(kls)}
    if dual_clip:
        metrics["dual_clip_frac"] = np.mean(dual_clipped)
    return np.mean(losses), metrics


def ppo_value_loss(values, old_values, returns, mask, cliprange_value):
    losses, clipped = [], []
    for b, t in np.argwhere(mask):
        v, old, ret = float(values[b, t]), float(old_values[b, t]), float(returns[b, t])
        near = max(old - cliprange_value, min(old + cliprange_value, v)) if cliprange_value else v
        losses.append(0.5 * max((v - ret) ** 2, (near - ret) ** 2))
        clipped.append((near - ret) ** 2 > (v - ret) ** 2)
    return np.mean(losses), np.mean(clipped)


def explained_variance(values, returns, mask) -> float:
    unexplained = np.asarray(returns, np.float64) - np.asarray(values, np.float64)
    return 1 - var(unexplained, mask) / var(returns, mask)


def ranked_margins(scores, ranks, valid) -> list[list[float]]:
    """For each prompt, better score - worse score of each pair that is not tied."""
    margins = []
    for s, r, ok in zip(scores, ranks, valid):
        k = range(len(s))
        margins.append([float(s[i]) - float(s[j]) for i in k for j in k if ok[i] and ok[j] and r[i] < r[j]])
    return margins


def ranking_loss(scores, ranks, valid):
    prompts = [m for m in ranked_margins(scores, ranks, valid) if m]
    if not prompts:
        return 0.0, 0.0, 0.0
    loss = np.mean([np.mean([math.log(1 + math.exp(-m)) for m in margins]) for margins in prompts])
    accuracy = np.mean([np.mean([m > 0 for m in margins]) for margins in prompts])
    return loss, accuracy, np.mean([np.mean(margins) for margins in prompts])


def calibration(scores, ranks, valid, bins):
    """ECE over all pairs, and for each bin (mean confidence, accuracy, count)."""
    members = [[] for _ in range(bins)]
    for margin in (m for margins in ranked_margins(scores, ranks, valid) for m in margins):
        p = 1 / (1 + math.exp(-margin))
        confidence = max(p, 1 - p)
        correct = 0.5 if margin == 0 else float(margin > 0)
        members[min(int((confidence - 0.5) / 0.5 * bins), bins - 1)].append((confidence, correct))
    total = sum(len(m) for m in members)
    table = [(np.mean([c for c, _ in m]), np.mean([a for _, a in m]), len(m)) if m else (0.0, 0.0, 0) for m in members]
    return sum(n / total * abs(a - c) for c, a, n in table), table


def leave_one_out(returns, group):
    """RLOO, arXiv 2402.14740: the baseline is the mean of the others."""
    out = []
    for i, own in enumerate(returns):
        first = i - i % group
        others = [float(returns[j]) for j in range(first, first + group) if j != i]
        out.append(float(own) - sum(others) / len(others))
    return np.array(out)


def group_advantages(returns, group, scale):
    """GRPO, arXiv 2402.03300, section 4.1; without `scale` Dr. GRPO, arXiv 2503.20783."""
    out = []
    for i, own in enumerate(returns):
        first = i - i % group
        members = [float(x) for x in returns[first : first + group]]
        centre = sum(members) / group
        spread = max(members) - min(members)
        std = math.sqrt(sum((x - centre) ** 2 for x in members) / group)
        out.append(0.0 if spread <= 1e-5 else (float(own) - centre) / (std if scale else 1.0))
    return np.array(out)


def group_std(returns, group):
    return np.mean([np.std(np.float64(returns[i : i + group])) for i in range(0, len(returns), group)])


def aggregated(losses, mask, method, keep=None) -> float:
    """Token losses as one number: DAPO's eq. 8 (token), GRPO's eq. 3 (sequence), Dr. GRPO's section 3.2 (constant)."""
    keep = [True] * len(losses) if keep is None else keep
    answers = [valid(row, m) for row, m, kept in zip(losses, mask, keep) if kept]
    answers = [answer for answer in answers if answer]
    if not answers:
        return 0.0
    if method == "token":
        tokens = [x for answer in answers for x in answer]
        return sum(tokens) / len(tokens)
    longest = np.shape(losses)[1]
    return sum(sum(x) / (len(x) if method == "sequence" else longest) for x in answers) / len(answers)


def sequence_ratios(logprobs, old_logprobs, mask):
    """GSPO, arXiv 2507.18071, eq. 7: the geometric mean of an answer's ratios, at each of its tokens."""
    out = np.zeros(np.shape(logprobs))
    for b in range(len(mask)):
        differences = valid(np.float64(logprobs[b]) - np.float64(old_logprobs[b]), mask[b])
        for t in np.flatnonzero(mask[b]):
            out[b, t] = math.exp(sum(differences) / len(differences))
    return out


def token_losses(ratios, advantages, low, high):
    """The clipped objective of each token, negated."""
    out = np.zeros(np.shape(ratios))
    for b, t in np.ndindex(*out.shape):
        ratio, a = float(ratios[b, t]), float(advantages[b, t])
        out[b, t] = -min(ratio * a, max(1 - low, min(1 + high, ratio)) * a)
    return out


def length_adaptive_lam(mask, alpha):
    """VAPO, arXiv 2504.05118, section 4.2."""
    return np.array([max(1 - 1 / (alpha * max(int(np.sum(row)), 1)), 0.0) for row in mask])


def ensemble_scores(scores, means, stds, method, coef):
    """Coste et al. 2023 (arXiv 2310.02743), of scores that are put on one scale; the scores and their disagreement."""
    verdicts, spreads = [], []
    for row in scores:
        scaled = [(float(x) - m) / (s if s > 1e-6 else 1.0) for x, m, s in zip(row, means, stds)]
        average = sum(scaled) / len(scaled)
        variance = sum((x - average) ** 2 for x in scaled) / len(scaled)
        verdicts.append({"mean": average, "worst": min(scaled), "uncertainty": average - coef * variance}[method])
        spreads.append(math.sqrt(variance))
    return np.array(verdicts), np.array(spreads)


def scale_by_source(scores, sources, before, method, clip):
    """Of each source its own moments; `before` has each one's earlier scores, and its reference's mean and spread."""
    out = []
    for score, source in zip(scores, sources):
        earlier, ref_mean, ref_std = before[source]
        seen = [*earlier, *(float(x) for x, other in zip(scores, sources) if other == source)]
        average = sum(seen) / len(seen)
        std = math.sqrt(sum((x - average) ** 2 for x in seen) / len(seen))
        shift, unit = {
            "reference": (ref_mean, ref_std), "running_std": (0.0, std), "running_mean_std": (average, std)
        }[method]  # fmt: skip
        scaled = (float(score) - shift) / (unit if unit > 1e-6 else 1.0)
        out.append(max(-clip, min(clip, scaled)) if clip else scaled)
    return np.array(out)


def spread(x, mask):
    elements = valid(x, mask)
    if not elements:
        return {"mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0}
    return {"mean": mean(x, mask), "std": math.sqrt(var(x, mask)), "min": min(elements), "max": max(elements)}
