localrules:
    configuration,


rule configuration:
    output:
        config=out("config.json"),
        methods=out("methods.json"),
    log:
        log_of("configuration"),
    benchmark:
        benchmark_of("configuration")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=100,
    params:
        config=json.dumps(config, indent=2),
        methods=json.dumps(
            {name: method_line(name) for name in config["table"]}, indent=2
        ),
    shell:
        "(printf '%s\\n' {params.config:q} > {output.config};"
        " printf '%s\\n' {params.methods:q} > {output.methods}) 2> {log}"


rule report:
    input:
        config=rules.configuration.output.config,
        accuracy=rules.evaluate.output.accuracy,
        differences=rules.evaluate.output.differences,
        metrics=rules.evaluate.output.metrics,
        records=rules.records.output.records,
        boxes=rules.records.output.boxes,
        left_out=rules.records.output.left_out,
        split=rules.split.output.split,
        images=shards("data/images/{shard}.h5"),
        found=sum(found_tables().values(), []),
        maps=pictured_maps(),
        predictions=sum(predictions().values(), []),
        code=sources("crosseai.report.page"),
        assets=files_in(
            os.path.relpath(f"{workflow.basedir}/crosseai/report"),
            ".html",
            ".css",
            ".js",
            ".csv",
        ),
    output:
        csv=out("table1.csv"),
        markdown=out("table1.md"),
        page=out("report.html"),
        figures=directory(out("figures")),
    log:
        log_of("report"),
    benchmark:
        benchmark_of("report")
    conda:
        "../../envs/crosseai.yaml"
    resources:
        mem_mb=2000,
    params:
        run=subpath(output.csv, parent=True),
    shell:
        "python -m crosseai report {params.run} 2> {log}"
