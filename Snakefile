from snakemake.utils import min_version, validate

min_version("9.3")


configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/common.smk"


with one_line_errors():
    check_schema(config)
    validate(config, "workflow/schemas/config.schema.yaml")  # fills in the defaults
    check_values(config)
    tell_who_saw_boxes()


include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/maps.smk"
include: "workflow/rules/fusion.smk"
include: "workflow/rules/boxes.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/derived.smk"
include: "workflow/rules/ablation.smk"
include: "workflow/rules/sanity.smk"


rule all:
    default_target: True
    input:
        out("table1.csv"),
        out("table1.md"),
        out("report.html"),
        out("methods.json"),
        # Snakemake removes what a killed job was making anew; by what was made of it before, it would
        # not be missed.
        stage_files(),
