rule evaluate:
    input:
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        split=rules.split.output.split,
        found=sum(found_tables().values(), []),
        predictions=sum(predictions().values(), []),
        code=sources("crosseai.evaluation.stage"),
    output:
        accuracy=out("accuracy.parquet"),
        differences=out("differences.parquet"),
        metrics=out("metrics.csv"),
    log:
        log_of("evaluate"),
    benchmark:
        benchmark_of("evaluate")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=4000,
    params:
        out=subpath(output.metrics, parent=True),
        found=named("found", found_tables()),
        predictions=named("predictions", predictions()),
        options=options(
            {
                **pick(config, "score"),
                **pick(config["controls"], "draws", "folds"),
                "control_seed": config["controls"]["seed"],
                **config["evaluation"],
            }
        ),
    shell:
        "python -m crosseai evaluate --records {input.records} --boxes {input.boxes}"
        " --split {input.split} {params.found} {params.predictions} {params.options}"
        " --out {params.out} 2> {log}"
