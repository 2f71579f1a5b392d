"""The keys of the reference's service: what each does here, or why it does nothing, and what it may be."""

from __future__ import annotations

EFFECTS = {
    "model": "the checkpoint: a folder or a repository id",
    "device": "where it runs: cuda or cpu",
    "dtype": "the type of the arithmetic on a GPU; a CPU computes in float32",
    "quantization": "int8 runs the linear layers of a CPU in 8 bit",
    "max_model_len": "the window in tokens, and never more than the model has positions",
    "max_labels": "the most labels of a text: more are refused, not cut; -1: 1000",
    "default_threshold": "the threshold of a request that names none",
    "num_replicas": "copies of the model, with Ray",
    "num_gpus_per_replica": "what Ray reserves for a copy",
    "num_cpus_per_replica": "what Ray reserves for a copy",
    "max_batch_size": "the texts of a batch, at most; its tokens have a bound of their own",
    "request_timeout_s": "a request that waits longer is answered with status 504",
    "max_ongoing_requests": "requests at once in a copy, with Ray",
    "queue_capacity": "requests that may wait; further ones are answered with status 429",
    "route_prefix": "the path of the reference's route",
    "tokenizer_threads": "threads that tokenise; 0 leaves the tokenizer's own choice",
    "http_port": "the port",
    "ray_address": "the cluster, with Ray; none starts one on this machine",
    "enable_polylora": "True is refused: give adapters as `--adapter ID=FOLDER`",
}
_NO_MEMORY_MODEL = "a batch is bounded by its tokens, so that no memory is estimated"
_NO_ADAPTERS = "adapters are given as `--adapter ID=FOLDER`"
WITHOUT_EFFECT = {
    "max_labels_alloc": "labels are packed and never padded",
    "batch_wait_timeout_ms": "how long a batch waits for texts follows from the time of the one before",
    "enable_compilation": "the kernels are compiled already",
    "precompile_on_startup": "the service always warms up before it is ready",
    "precompiled_batch_sizes": "batches are sized by tokens, and the warm-up takes its sizes from them",
    "warmup_iterations": "one run of each size is enough",
    "use_memory_aware_batching": _NO_MEMORY_MODEL,
    "calibrate_on_startup": _NO_MEMORY_MODEL,
    "target_memory_fraction": _NO_MEMORY_MODEL,
    "memory_overhead_factor": _NO_MEMORY_MODEL,
    "calibration_min_seq_len": _NO_MEMORY_MODEL,
    "calibration_min_batch_size": _NO_MEMORY_MODEL,
    "calibration_max_batch_size": _NO_MEMORY_MODEL,
    "calibration_probe_batch_size": _NO_MEMORY_MODEL,
    "polylora_adapter_weight_modules": _NO_ADAPTERS,
    "polylora_max_rank": _NO_ADAPTERS,
    "polylora_max_gpu_adapters": _NO_ADAPTERS,
    "polylora_max_cpu_adapters": _NO_ADAPTERS,
    "polylora_disk_cache_dir": _NO_ADAPTERS,
    "polylora_max_disk_adapters": _NO_ADAPTERS,
    "polylora_base_adapter_id": _NO_ADAPTERS,
    "polylora_use_triton_kernels": _NO_ADAPTERS,
    "polylora_adapter_id_pattern": _NO_ADAPTERS,
}
# of older versions of the reference
RENAMED = {"enable_mlora": "enable_polylora", "polylora_target_modules": "polylora_adapter_weight_modules"}
FORGOTTEN = (
    "polylora_lazy_load_adapters",
    "polylora_allow_runtime_adapter_loading",
    "polylora_allow_unsafe_bin_adapters",
)
SHORT = {"port": "http_port"}  # how a command line calls a key

CHOICES: dict[str, tuple[str | None, ...]] = {
    "dtype": ("float32", "float16", "fp16", "bfloat16", "bf16"),
    "quantization": (None, "int8"),
}
LEAST_AND_MOST: dict[str, tuple[float, float]] = {
    "max_model_len": (1, float("inf")),
    "max_labels": (-1, float("inf")),
    "default_threshold": (0, 1),
    "num_replicas": (1, float("inf")),
    "num_gpus_per_replica": (0, float("inf")),
    "num_cpus_per_replica": (0, float("inf")),
    "max_batch_size": (1, float("inf")),
    "request_timeout_s": (0, float("inf")),
    "max_ongoing_requests": (1, float("inf")),
    "queue_capacity": (1, float("inf")),
    "tokenizer_threads": (0, float("inf")),
    "http_port": (0, 65535),
}
