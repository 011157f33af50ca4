rule weights:
    input:
        weights=lambda wildcards: config["models"][wildcards.model]["weights"],
        code=sources("crosseai.models.weights", "crosseai.models.training"),
    output:
        report=out("models/{model}/weights.json"),
    log:
        log_of("weights/{model}"),
    benchmark:
        benchmark_of("weights/{model}")
    # A wrong file ends the run before anything else has taken long.
    priority: 1_000_000
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=4000,
    params:
        options=lambda wildcards: options(
            {
                **network(wildcards.model),
                **pick(config["models"][wildcards.model], "freeze_until"),
            }
        ),
    shell:
        "python -m crosseai weights {input.weights:q} {params.options} --out {output.report}"
        " 2> {log}"


rule train:
    input:
        records=rules.records.output.records,
        split=lambda wildcards: split_of(wildcards.model),
        images=shards("data/images/{shard}.h5"),
        weights=lambda wildcards: weights_of(wildcards.model),
        boxes=lambda wildcards: boxes_of(wildcards.model),
        code=sources("crosseai.models.training"),
    output:
        weights=out("models/{model}/fold{fold}/weights.safetensors"),
        history=out("models/{model}/fold{fold}/history.parquet"),
        auc=out("models/{model}/fold{fold}/auc.parquet"),
        predictions=out("models/{model}/fold{fold}/predictions.parquet"),
    log:
        log_of("train/{model}-fold{fold}"),
    benchmark:
        benchmark_of("train/{model}-fold{fold}")
    # The longest first, so that no core waits for it at the end.
    priority: lambda wildcards: config["models"][wildcards.model]["epochs"]
    conda:
        "../../envs/crosseai.yaml"
    threads: lambda wildcards: config["models"][wildcards.model]["threads"]
    resources:
        mem_mb=16000,
    params:
        out=subpath(output.weights, parent=True),
        boxes=lambda wildcards, input: " ".join(
            f"--boxes {path}" for path in input.boxes
        ),
        options=lambda wildcards: options(
            {"labels": config["labels"], **config["models"][wildcards.model]}
        ),
    shell:
        "python -m crosseai train {input.images} --records {input.records} --split {input.split}"
        " --fold {wildcards.fold} {params.options} {params.boxes}"
        " --out {params.out} 2> {log}"
