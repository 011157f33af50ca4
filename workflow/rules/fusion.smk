rule fuse:
    input:
        maps=lambda wildcards: maps_of(wildcards.method),
        code=sources("crosseai.fusion"),
    output:
        maps=out("fused/{method}/{shard}.h5"),
    log:
        log_of("fuse/{method}-{shard}"),
    benchmark:
        benchmark_of("fuse/{method}-{shard}")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=1000,
    params:
        t=lambda wildcards: fusion_weight(wildcards.method),
    shell:
        "python -m crosseai fuse {input.maps} --t {params.t} --out {output.maps} 2> {log}"
