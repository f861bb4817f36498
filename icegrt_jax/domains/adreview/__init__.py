"""The embedded domain: reviewing short advertisements against a fixed rule book.

Everything is generated from seeds, nothing is downloaded, and an exact judge
knows how good any answer is. Import the modules:

    from icegrt_jax.domains.adreview import build, judge

    sets = build.build(seed=0, sizes={"demonstrations": 2000, "eval_prompts": 100})
    judge.grade(sets["eval_prompts"][0].meta, "verdict: reject")["gold"]

`rules` and `phrases` are the domain's content, `splits` says what is held out,
`generator` draws ads, `answer` writes and reads reviews, `judge` grades them,
`flaws` spoils them, `demonstrations` mixes good with bad, `annotators` rank,
`general` has twelve general tasks, `corpus` is plain text for pretraining, and
`build` makes all the sets of a run.
"""
