rule maps:
    input:
        weights=lambda wildcards: folds(wildcards.model, "weights.safetensors"),
        split=lambda wildcards: split_of(wildcards.model),
        boxes=rules.records.output.boxes,
        images=rules.images.output.images,
        code=sources("crosseai.maps.attribution"),
    output:
        maps=out("maps/{model}/{map}/{shard}.h5"),
    log:
        log_of("maps/{model}-{map}-{shard}"),
    benchmark:
        benchmark_of("maps/{model}-{map}-{shard}")
    conda:
        "../../envs/crosseai.yaml"
    threads: lambda wildcards: config["models"][wildcards.model]["threads"]
    resources:
        mem_mb=4000,
    params:
        options=lambda wildcards: options(
            {
                **pick(config, "explain", "score"),
                **pick(config["models"][wildcards.model], "threads"),
                **config["maps"][wildcards.map],
            }
        ),
    shell:
        "python -m crosseai maps {input.weights} --images {input.images} --split {input.split}"
        " --boxes {input.boxes} {params.options} --out {output.maps} 2> {log}"
