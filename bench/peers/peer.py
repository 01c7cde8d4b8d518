"""One peer as a process that is kept alive between its turns: python peer.py KIND THREADS

KIND: eager     PyTorch as written, under inference_mode
      compile   torch.compile with its defaults
      frozen    torch.compile with the inductor's freezing: weights become constants and are packed
      onnx      ONNX Runtime on what torch.onnx.export makes of the module, inputs and outputs bound

Lines in, one line out for each:
      load DIRECTORY   the case in it (bench/export.lua) -> ok VERSION | error TEXT
      run N [cpu]      N runs -> ns T1 T2 ... | error TEXT; cpu: processor time of the thread
      quit
Everything that does not belong to a run (imports, compiling, binding) happens in load. Results are compared with Esper's.
"""
import os
import sys
import time

KIND, THREADS = sys.argv[1], int(sys.argv[2])
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever libraries print goes to stderr, not into the replies
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import torch  # noqa: E402

import model  # noqa: E402

DIFFERENT = 1e-3
torch.set_num_threads(THREADS)


def torch_runner(case):
    module = case.module
    if KIND != "eager":
        torch._dynamo.reset()
        if KIND == "frozen":
            import torch._inductor.config as config
            config.freezing = True
        module = torch.compile(module)
    inputs = list(case.inputs.values())

    def run(n, clock):
        times = []
        with torch.inference_mode() if KIND == "eager" else torch.no_grad():
            for _ in range(n):
                start = clock()
                module(*inputs)
                times.append(clock() - start)
        return times

    with torch.no_grad():
        for _ in range(2):
            got = [t.numpy() for t in module(*inputs)]
    return run, got, f"torch {torch.__version__}"


def onnx_runner(case, directory):
    import onnxruntime as ort
    path = os.path.join(directory, "model.onnx")
    with torch.no_grad():
        torch.onnx.export(case.module, tuple(case.inputs.values()), path, input_names=list(case.inputs), dynamo=True,
                          verbose=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    given = {i.name for i in session.get_inputs()}
    for name, t in case.inputs.items():
        if name in given:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(t.numpy()))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    session.run_with_iobinding(binding)
    got = binding.copy_outputs_to_cpu()

    def run(n, clock):
        times = []
        for _ in range(n):
            start = clock()
            session.run_with_iobinding(binding)
            times.append(clock() - start)
        return times

    return run, got, f"onnxruntime {ort.__version__}"


def load(directory):
    case = model.load(directory)
    runner, got, version = onnx_runner(case, directory) if KIND == "onnx" else torch_runner(case)
    apart = case.difference(got)
    if not apart <= DIFFERENT:
        raise ValueError(f"results differ from Esper's by {apart:.1e} of the largest value")
    return runner, version


def serve():
    runner = None
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        try:
            if verb == "load":
                runner = None
                runner, version = load(rest)
                reply = f"ok {version}"
            elif verb == "run":
                count, _, kind = rest.partition(" ")
                clock = time.thread_time_ns if kind == "cpu" else time.perf_counter_ns
                reply = "ns " + " ".join(map(str, runner(int(count), clock)))
            else:
                return
        except Exception as problem:  # one line, whatever it is: the driver goes on with the other peers
            text = (str(problem).strip().splitlines() or [""])[0]
            reply = f"error {type(problem).__name__}: {text}"
        replies.write(reply + "\n")
        replies.flush()


serve()
