verbosity = "brief"


def get_plugin(module_name, sources, **build_kwargs):
    return ("built", module_name, tuple(sources))
