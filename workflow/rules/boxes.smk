rule boxes:
    input:
        unpack(box_inputs),
        records=rules.records.output.records,
        code=sources("crosseai.boxes.stage"),
    output:
        boxes=out("boxes/{method}/{shard}.parquet"),
    log:
        log_of("boxes/{method}-{shard}"),
    benchmark:
        benchmark_of("boxes/{method}-{shard}")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=1000,
    params:
        parts=lambda wildcards, input: (
            f"--parts {input.parts}" if "parts" in input.keys() else ""
        ),
        options=lambda wildcards: options(box_rule(wildcards.method)),
    shell:
        "python -m crosseai boxes find {input.maps} {params.parts} --records {input.records}"
        " {params.options} --out {output.boxes} 2> {log}"


rule gather:
    input:
        boxes=shards("boxes/{method}/{shard}.parquet"),
        code=sources("crosseai.boxes.stage"),
    output:
        boxes=out("boxes/{method}.parquet"),
    log:
        log_of("gather/{method}"),
    benchmark:
        benchmark_of("gather/{method}")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=1000,
    shell:
        "python -m crosseai boxes gather {input.boxes} --out {output.boxes} 2> {log}"
