rule phantom:
    input:
        code=sources("crosseai.data.phantom"),
    output:
        release=directory(out("release")),
    log:
        log_of("phantom"),
    benchmark:
        benchmark_of("phantom")
    conda:
        "../../envs/crosseai.yaml"
    threads: 4
    resources:
        mem_mb=2000,
    params:
        options=options(config["release"]["phantom"]),
    shell:
        "python -m crosseai phantom {output.release} {params.options} --jobs {threads} 2> {log}"


rule records:
    input:
        release=release_files(),
        code=sources("crosseai.data.nih"),
    output:
        records=out("data/records.parquet"),
        boxes=out("data/boxes.parquet"),
        left_out=out("data/left_out.csv"),
    log:
        log_of("records"),
    benchmark:
        benchmark_of("records")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        release=lambda wildcards: release_root(),
        out=subpath(output.records, parent=True),
        options=options(
            {"labels": config["labels"], **pick(config["release"], "strict")}
        ),
    shell:
        "python -m crosseai data records {params.release:q} --out {params.out} {params.options}"
        " 2> {log}"


rule split:
    input:
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        code=sources("crosseai.data.split", "crosseai.tables"),
    output:
        split=out("data/split.parquet"),
    log:
        log_of("split"),
    benchmark:
        benchmark_of("split")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        options=options(
            {
                **pick(config["split"], "kind", "fractions", "seed"),
                **(pick(config["split"], "folds") if is_kfold() else {}),
            }
        ),
    shell:
        "python -m crosseai data split --records {input.records} --boxes {input.boxes}"
        " {params.options} --out {output.split} 2> {log}"


rule share_boxes:
    input:
        split=rules.split.output.split,
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        code=sources("crosseai.data.split", "crosseai.tables"),
    output:
        split=out("data/split_with_boxes.parquet"),
    log:
        log_of("share_boxes"),
    benchmark:
        benchmark_of("share_boxes")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        options=options(pick(config["split"], "box_folds", "seed")),
    shell:
        "python -m crosseai data share-boxes --split {input.split} --records {input.records}"
        " --boxes {input.boxes} {params.options} --out {output.split} 2> {log}"


rule images:
    input:
        records=rules.records.output.records,
        code=sources("crosseai.data.images", "crosseai.tables"),
    output:
        images=out("data/images/{shard}.h5"),
    log:
        log_of("images/{shard}"),
    benchmark:
        benchmark_of("images/{shard}")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=1000,
    params:
        release=lambda wildcards: release_root(),
        options=options(config["images"]),
    shell:
        "python -m crosseai data images {params.release:q} --records {input.records}"
        " --shard {wildcards.shard} {params.options} --out {output.images} 2> {log}"
