"""What the settings of the boxes are worth, and boxes whose settings other patients chose."""


rule ablation:
    input:
        [out(f"ablation/{name}.csv") for name in ablated()],


rule ablate:
    input:
        heatmaps=lambda wildcards: every_shard(maps_of(wildcards.method)[0]),
        gradients=lambda wildcards: sum(gradients(wildcards.method).values(), []),
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        split=rules.split.output.split,
        code=sources("crosseai.ablation.curves"),
    output:
        table=out("ablation/{method}.csv"),
        summary=out("ablation/{method}.md"),
        curves=out("ablation/{method}.png"),
    log:
        log_of("ablate/{method}"),
    benchmark:
        benchmark_of("ablate/{method}")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        gradients=lambda wildcards: named("gradients", gradients(wildcards.method)),
        options=lambda wildcards: options(
            {
                **box_settings(wildcards.method),
                **to_try(
                    pick(
                        config["ablation"], "t", "threshold", "smoothing", "candidates"
                    )
                ),
                **pick(config["evaluation"], "resamples", "seed"),
            }
        ),
    shell:
        "python -m crosseai ablate {input.heatmaps} {params.gradients} --records {input.records}"
        " --boxes {input.boxes} --split {input.split} {params.options} --out {output.table}"
        " 2> {log}"


# The boxes of a method that selects come from here, those of all others from the boxes stage.
ruleorder: select > gather


rule select:
    input:
        maps=lambda wildcards: sum(parts(wildcards.method).values(), []),
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        split=rules.split.output.split,
        code=sources("crosseai.ablation.selection"),
    output:
        boxes=out("boxes/{method}.parquet"),
        choices=out("selected/{method}.csv"),
    log:
        log_of("select/{method}"),
    benchmark:
        benchmark_of("select/{method}")
    wildcard_constraints:
        method="|".join(filter(is_selected, config["methods"])) or "(?!)",
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        maps=lambda wildcards: named("maps", parts(wildcards.method)),
        options=lambda wildcards: options(
            {
                **box_settings(wildcards.method),
                **pick(box_rule(wildcards.method), "ranks"),
                **to_try(selected_values(wildcards.method)),
                **pick(config["methods"][wildcards.method]["select"], "folds", "seed"),
            }
        ),
    shell:
        "python -m crosseai select {params.maps} --records {input.records} --boxes {input.boxes}"
        " --split {input.split} {params.options} --choices {output.choices}"
        " --out {output.boxes} 2> {log}"
