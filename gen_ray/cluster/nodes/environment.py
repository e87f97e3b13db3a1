"""What Ray's processes are told by environment variables, in one place: each must be set before some process starts."""

RAY = {
    # Threads that spin at a barrier while another process wants their core slow small nets down sixfold.
    "OMP_WAIT_POLICY": "passive",
    # The controller looks at its workers this often, and a report waits for it; Ray's 2 s cost a short epoch dearly.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Who booked no GPU sees none; Ray leaves all in sight, and torch and Ray Train would take the first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial's result is its error
}

ALONE = {
    # Nobody gives notice of taking a machine of one's own away; a process that waits for it costs every start a second.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

SERVE = {
    # Serve's proxies limit neither connections nor headers, and repeat any request id.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "gen_ray.cluster.serving.proxy:middlewares",
    # A dead proxy is noticed after a few periods: with Ray's 10 s nobody is served for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # Nobody blocks a loop here, so that what comes in need not go from thread to thread: 4 ms of 21 a request.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # Ray's workers are nice (15): whatever else runs on the machine would halve a replica's rate.
    "RAY_worker_niceness": "0",
}

STOP = {
    # A job that is stopped saves a checkpoint and closes its MLflow run; after Ray's 3 s it would be killed over that.
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
}
