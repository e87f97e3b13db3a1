"""Environment variables of Ray's processes. Each must be set before certain processes start."""

RAY = {
    # Threads that spin at a barrier while another process needs their core slow small nets down sixfold.
    "OMP_WAIT_POLICY": "passive",
    # Interval at which the controller polls its workers. A report waits for it: Ray's 2 s slow short epochs down.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Hide GPUs from processes without one. By default Ray leaves all visible, and torch and Ray Train take the first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial's result is its error
}

LOCAL = {
    # A single local machine gets no preemption notice, and the watcher delays every start by a second.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

SERVE = {
    # Serve's proxies do not limit connections or headers, and echo any request id.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "gen_ray.cluster.serving.proxy:middlewares",
    # A dead proxy is detected after a few periods: with Ray's 10 s, requests fail for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # Code here does not block the event loop, so that separate threads only cost time: 4 ms of 21 ms per request.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # Ray's workers run at nice 15: other processes on the machine would halve a replica's rate.
    "RAY_worker_niceness": "0",
}

STOP = {
    # A stopped job saves a checkpoint and closes its MLflow run; Ray's default of 3 s would kill it meanwhile.
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
}
