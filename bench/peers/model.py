"""A benchmark case as PyTorch source: what somebody who writes PyTorch would write for the graph in graph.json.

    case = load(directory)      -> Case with .name, .inputs (dict of tensors), .want (dict of arrays), .module
The forward function is generated as text and executed, so eager mode, torch.compile and the ONNX exporter all see an
ordinary module: parameters and buffers registered, composite calls of torch.nn.functional, numbers as numbers.
"""
import json
import os

import numpy as np
import torch

DTYPE = {"f32": "torch.float32", "f64": "torch.float64", "i32": "torch.int32", "i64": "torch.int64", "u8": "torch.uint8",
         "bool": "torch.bool", "f16": "torch.float16", "bf16": "torch.bfloat16"}
LEAVES = ("input", "param", "buffer", "const")


class Writer:
    """Turns nodes into lines of Python. names[id] is the expression that stands for a node."""

    def __init__(self, graph):
        self.nodes = {n["id"]: n for n in graph["nodes"]}
        self.roots = [r for r in graph["roots"] if r["kind"] == "output"]
        self.names, self.lines, self.made, self.tops = {}, [], {}, {}

    def const(self, node_id):
        node = self.nodes[node_id]
        return float(node["attrs"]["value"]) if node["op"] == "const" else None

    def call(self, node):
        op = node["op"]
        rule = globals().get("op_" + op)
        args = [self.names[i] for i in node["inputs"]]
        if rule:
            return rule(self, node, node["attrs"], *args)
        return f"torch.{op}({', '.join(args)})"

    def keep(self, name, value):
        """A constant the module computes once; its name in forward()."""
        self.made[name] = value
        return f"self.{name}"

    def needed(self):
        live = {r["node"] for r in self.roots}
        for i in sorted(self.nodes, reverse=True):
            if i in live:
                live.update(self.nodes[i]["inputs"])
        return live

    def write(self):
        live = self.needed()
        inputs = [n for n in self.nodes.values() if n["op"] == "input"]
        for i in sorted(self.nodes):
            node = self.nodes[i]
            if i not in live and node["op"] != "input":
                continue
            if node["op"] == "input":
                self.names[i] = f"x{i}"
            elif node["op"] in ("param", "buffer"):
                self.names[i] = f"self.p{i}"
            elif node["op"] == "const":
                self.names[i] = repr(self.const(i))
            else:
                self.lines.append(f"    v{i} = {self.call(node)}")
                self.names[i] = f"v{i}"
        results = [self.names[r["node"]] + (".clone()" if self.nodes[r["node"]]["op"] in LEAVES else "") for r in self.roots]
        head = "def forward(self, " + ", ".join(f"x{n['id']}" for n in inputs) + "):"
        return "\n".join([head] + self.lines + [f"    return {', '.join(results)},"]) + "\n"


def plain(expression):
    return lambda w, n, a, *x: expression.format(*x)


op_neg = plain("-{0}")
op_round = plain("torch.round({0})")
op_relu = plain("F.relu({0})")
op_silu = plain("F.silu({0})")
op_add = plain("{0} + {1}")
op_sub = plain("{0} - {1}")
op_mul = plain("{0} * {1}")
op_div = plain("{0} / {1}")
op_lerp = plain("torch.lerp({0}, {1}, {2})")
op_stop_grad = op_checkpoint = op_telemetry_probe = plain("{0}")
op_embedding = plain("F.embedding({1}, {0})")


def op_gelu(w, n, a, x):
    return f"F.gelu({x}, approximate='{'tanh' if a['tanh'] else 'none'}')"


def op_scale(w, n, a, x):
    y = x if a["mul"] == 1 else f"{x} * {float(a['mul'])!r}"
    return y if a["add"] == 0 else f"{y} + {float(a['add'])!r}"


def op_clamp(w, n, a, x):
    return f"torch.clamp({x}, {float(a['lo'])!r}, {float(a['hi'])!r})"


def op_cast(w, n, a, x):
    return f"{x}.to({DTYPE[n['dtype']]})"


def extreme(function, bound):
    def rule(w, n, a, x, y):
        for one, other in ((0, y), (1, x)):
            if w.const(n["inputs"][one]) is not None:
                return f"torch.clamp({other}, {bound}={w.const(n['inputs'][one])!r})"
        return f"torch.{function}({x}, {y})"
    return rule


op_maximum = extreme("maximum", "min")
op_minimum = extreme("minimum", "max")


def op_bias_add(w, n, a, x, b):
    shape = [1] * len(n["shape"])
    shape[a["axis"]] = -1
    return f"{x} + {b}.view({shape})"


def op_dropout(w, n, a, x):
    return f"F.dropout({x}, {a['p']!r}, True)"


def op_noise(w, n, a, x):
    return f"{x} + {a['std']!r} * torch.randn_like({x})"


def reduction(name):
    def rule(w, n, a, x):
        extra = f", correction={a['correction']}" if name == "var" else ""
        return f"torch.{name}({x}, dim={a['axes']}{extra}, keepdim={bool(a['keepdim'])})"
    return rule


op_reduce_sum, op_reduce_mean, op_reduce_max, op_reduce_var = map(reduction, ("sum", "mean", "amax", "var"))


def op_softmax(w, n, a, x):
    return f"F.softmax({x}, dim={a['axis']})"


def op_log_softmax(w, n, a, x):
    return f"F.log_softmax({x}, dim={a['axis']})"


def op_layer_norm(w, n, a, x, *rest):
    weight, bias = (list(rest) + ["None", "None"])[:2]
    return f"F.layer_norm({x}, {n['shape'][-a['dims']:]}, {weight}, {bias}, {a['eps']!r})"


def op_rms_norm(w, n, a, x, weight="None"):
    return f"F.rms_norm({x}, {n['shape'][-1:]}, {weight}, {a['eps']!r})"


def op_group_norm(w, n, a, x, weight="None", bias="None"):
    return f"F.group_norm({x}, {a['groups']}, {weight}, {bias}, {a['eps']!r})"


def op_batch_norm(w, n, a, x, mean, var, weight="None", bias="None"):
    return f"F.batch_norm({x}, {mean}, {var}, {weight}, {bias}, False, 0.1, {a['eps']!r})"


def op_linear(w, n, a, x, weight, bias="None"):
    return f"F.linear({x}, {weight}, {bias})"


def op_matmul(w, n, a, x, y):
    turn = ".transpose(-2, -1)"
    return f"torch.matmul({x}{turn if a['ta'] else ''}, {y}{turn if a['tb'] else ''})"


def conv(name):
    def rule(w, n, a, x, weight, bias="None"):
        return f"F.{name}({x}, {weight}, {bias}, {a['stride']}, {a['pad']}, {a['dilation']}, {a['groups']})"
    return rule


op_conv1d, op_conv2d = conv("conv1d"), conv("conv2d")


def pool(name):
    def rule(w, n, a, x):
        stride = a["stride"] if a["stride"] != [0, 0] else a["kernel"]
        return f"F.{name}({x}, {a['kernel']}, {stride}, {a['pad']})"
    return rule


op_max_pool2d, op_avg_pool2d = pool("max_pool2d"), pool("avg_pool2d")


def op_adaptive_avg_pool2d(w, n, a, x):
    return f"F.adaptive_avg_pool2d({x}, {a['out']})"


def op_reshape(w, n, a, x):
    return f"{x}.reshape({n['shape']})"


def op_permute(w, n, a, x):
    return f"{x}.permute({a['perm']})"


def op_slice(w, n, a, x):
    dots = ":, " * a["axis"]
    return f"{x}[{dots}{a['start']}:{a['stop']}:{a['step']}]"


def op_concat(w, n, a, *xs):
    return f"torch.cat([{', '.join(xs)}], dim={a['axis']})"


def op_expand(w, n, a, x):
    return f"{x}.expand({n['shape']})"


def op_sdpa(w, n, a, q, k, v, mask="None"):
    scale = a["scale"] if a["scale"] else None
    return f"F.scaled_dot_product_attention({q}, {k}, {v}, {mask}, is_causal={bool(a['causal'])}, scale={scale!r})"


def op_rope(w, n, a, x):
    tokens, width = n["shape"][-2:]
    half = width // 2
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * a["base"] ** (-torch.arange(half, dtype=torch.float64) / half)
    kind = torch.float64 if n["dtype"] == "f64" else torch.float32
    c, s = w.keep(f"cos{n['id']}", angle.cos().to(kind)), w.keep(f"sin{n['id']}", angle.sin().to(kind))
    first, second = f"{x}[..., :{half}]", f"{x}[..., {half}:]"
    return f"torch.cat([{first} * {c} - {second} * {s}, {first} * {s} + {second} * {c}], dim=-1)"


def op_gather(w, n, a, x, index):
    return f"torch.gather({x}, {a['axis']}, {index}.long())"


def op_scatter_add(w, n, a, x, index, source):
    return f"torch.scatter_add({x}, {a['axis']}, {index}.long(), {source})"


def top(which):
    def rule(w, n, a, x):
        key = (x, a["k"], a["axis"])
        if key not in w.tops:
            w.tops[key] = f"t{n['id']}"
            w.lines.append(f"    t{n['id']} = torch.topk({x}, {a['k']}, dim={a['axis']})")
        return f"{w.tops[key]}[{which}]"
    return rule


op_topk, op_topk_index = top(0), top(1)


def op_cross_entropy(w, n, a, x, target):
    return f"F.cross_entropy({x}.flatten(0, -2), {target}.flatten().long(), ignore_index={a['ignore']})"


class Case:
    def __init__(self, directory):
        with open(os.path.join(directory, "graph.json")) as f:
            graph = json.load(f)
        self.name, writer = graph["name"], Writer(graph)
        self.source = writer.write()
        leaf = {n["id"]: torch.from_numpy(np.load(os.path.join(directory, f"leaf.{n['id']}.npy")))
                for n in graph["nodes"] if n["op"] in ("input", "param", "buffer")}
        space = {"torch": torch, "F": torch.nn.functional}
        exec(self.source, space)
        self.module = type("Case", (torch.nn.Module,), {"forward": space["forward"]})()
        for n in graph["nodes"]:
            if n["op"] in ("param", "buffer"):
                self.module.register_buffer(f"p{n['id']}", leaf[n["id"]])
        for name, value in writer.made.items():
            self.module.register_buffer(name, value)
        self.module.eval()
        self.inputs = {f"x{n['id']}": leaf[n["id"]] for n in graph["nodes"] if n["op"] == "input"}
        self.want = [np.load(os.path.join(directory, f"want.{r['name']}.npy")) for r in writer.roots]

    def difference(self, got):
        """Largest difference of the float results from Esper's, as a share of the largest value."""
        worst = 0.0
        for want, have in zip(self.want, got):
            if want.dtype.kind == "f":
                top = float(np.abs(want).max()) or 1.0
                worst = max(worst, float(np.abs(want - np.asarray(have)).max()) / top)
        return worst


def load(directory):
    return Case(directory)
