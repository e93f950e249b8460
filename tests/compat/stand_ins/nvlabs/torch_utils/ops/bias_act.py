import dnnlib
import torch

activation_funcs = {
    name: dnnlib.EasyDict(func=func, def_alpha=alpha, def_gain=gain, cuda_idx=i + 1, ref="y", has_2nd_grad=curved)
    for i, (name, func, alpha, gain, curved) in enumerate(
        [
            ("linear", lambda x, alpha: x, 0, 1, False),
            ("relu", lambda x, alpha: torch.relu(x), 0, 2**0.5, False),
            ("lrelu", lambda x, alpha: torch.nn.functional.leaky_relu(x, alpha), 0.2, 2**0.5, False),
            ("tanh", lambda x, alpha: torch.tanh(x), 0, 1, True),
            ("sigmoid", lambda x, alpha: torch.sigmoid(x), 0, 1, True),
            ("elu", lambda x, alpha: torch.nn.functional.elu(x), 0, 1, True),
            ("selu", lambda x, alpha: torch.nn.functional.selu(x), 0, 1, True),
            ("softplus", lambda x, alpha: torch.nn.functional.softplus(x), 0, 1, True),
            ("swish", lambda x, alpha: x * torch.sigmoid(x), 0, 2**0.5, True),
        ]
    )
}


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    spec = activation_funcs[act]
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    y = spec.func(x, spec.def_alpha if alpha is None else alpha) * (spec.def_gain if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)
