"""What is left of maps and boxes once the network has forgotten."""


ruleorder: randomise > train


rule randomise:
    input:
        trained=out("models/{model}/fold{fold}/weights.safetensors"),
        code=sources("crosseai.models.randomise"),
    output:
        weights=out("models/{model}~{depth}/fold{fold}/weights.safetensors"),
    log:
        log_of("randomise/{model}~{depth}-fold{fold}"),
    benchmark:
        benchmark_of("randomise/{model}~{depth}-fold{fold}")
    wildcard_constraints:
        model="[^/~]+",
        depth="[^/~]+",
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        options=options(pick(config["sanity"], "seed")),
    shell:
        "python -m crosseai randomise {input.trained} --depth {wildcards.depth} {params.options}"
        " --out {output.weights} 2> {log}"


rule sanity:
    input:
        maps=[
            path
            for name in examined_at_depths()
            for path in every_shard(drawn_on(name))
        ],
        found=[out(f"boxes/{name}.parquet") for name in examined_at_depths()],
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        split=rules.split.output.split,
        code=sources("crosseai.ablation.sanity"),
    output:
        table=out("sanity/sanity.csv"),
        summary=out("sanity/sanity.md"),
        curves=out("sanity/sanity.png"),
    log:
        log_of("sanity"),
    benchmark:
        benchmark_of("sanity")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=4000,
    params:
        out=subpath(output.table, parent=True),
        maps=named(
            "maps",
            {name: [os.path.dirname(drawn_on(name))] for name in examined_at_depths()},
        ),
        found=named(
            "found",
            {name: [out(f"boxes/{name}.parquet")] for name in examined_at_depths()},
        ),
        options=options(
            {
                **pick(config, "score"),
                **pick(config["images"], "shards", "size"),
                **pick(config["evaluation"], "resamples", "seed"),
            }
        ),
    shell:
        "python -m crosseai sanity {params.maps} {params.found} --records {input.records}"
        " --boxes {input.boxes} --split {input.split} {params.options} --out {params.out}"
        " 2> {log}"
