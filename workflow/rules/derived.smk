"""Maps, models and methods that the ablation and the sanity check derive from the configured ones.

They are defined after the rule `configuration`, so that config.json does not hold them.
"""


def to_try(settings):
    """Options of the values to try: t becomes --t-values."""
    return {f"{key}_values": own for key, own in settings.items()}


def box_settings(method):
    """The settings of a method by Algorithm 1, as ablate and select have them."""
    return {
        "score": config["score"],
        "t": fusion_weight(method),
        **pick(
            box_rule(method),
            "size",
            "threshold",
            "threshold_of",
            "smoothing",
            "candidates",
            "keep_last_ring",
        ),
    }


def ablated():
    """Fusions of the table whose boxes come from Algorithm 1 with configured settings."""
    return [
        name
        for name in config["table"]
        if is_fusion(name)
        and not is_selected(name)
        and box_rule(name)["rule"] == "rectangles"
    ]


def reductions(method):
    """Reduction of the channels -> gradient map of a fusion with it, the configured one first."""
    name = map_names(method)[1]
    own = config["maps"][name].get("reduction")
    others = [
        value for value in config["ablation"]["reduction"] if own not in (None, value)
    ]
    return {own or "configured": name} | {value: f"{name}~{value}" for value in others}


def gradients(method):
    """Reduction -> map files of all shards."""
    model = config["methods"][method]["model"]
    return {
        reduction: shards(f"maps/{model}/{name}/{{shard}}.h5")
        for reduction, name in reductions(method).items()
    }


def parts(method):
    """Map -> map files of all shards."""
    names, files = map_names(method), maps_of(method)
    return {name: every_shard(path) for name, path in zip(names, files)}


def add_reductions():
    """Define the gradient maps under another reduction."""
    for method in ablated():
        (_, name), *others = reductions(method).items()
        for reduction, other in others:
            config["maps"][other] = config["maps"][name] | {"reduction": reduction}


def examined():
    """Methods of the table; one that selects its settings has the maps of another."""
    return [name for name in config["table"] if not is_selected(name)]


def examined_at_depths():
    """The same, and each with its weights made anew down to each depth, METHOD~DEPTH."""
    depths = ["", *(f"~{depth}" for depth in config["sanity"]["depths"])]
    return [f"{name}{depth}" for name in examined() for depth in depths]


def add_depths():
    """Define METHOD~DEPTH as a method and MODEL~DEPTH as a model.

    Maps, fusions and boxes are made of them by the same rules as of any other.
    """
    for name in examined():
        line = config["methods"][name]
        for depth in config["sanity"]["depths"]:
            model = f"{line['model']}~{depth}"
            config["models"][model] = config["models"][line["model"]]
            config["methods"][f"{name}~{depth}"] = line | {"model": model}


add_reductions()
add_depths()
