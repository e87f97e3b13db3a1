"""The mathematics of the four families: pure torch functions without modules, files or global random state.

Conventions (for the whole package)
-----------------------------------
Time        data at t=0, noise at t=1 (continuous), or data at k=0 and noise at k=T (discrete, k = 1 … T).
            A network is always given t = k/T in [0, 1].
Marginals   x_t = alpha_t · x_0 + sigma_t · eps, eps ~ N(0, I). In DDPM's letters alpha_t = sqrt(alpha_bar_k) and
            sigma_t = sqrt(1 − alpha_bar_k). log_snr = ln(alpha² / sigma²); lambda = log_snr / 2.
Data        u in {0 … levels−1} is stored; Gaussian families see x = 2·u/(levels−1) − 1 in [−1, 1] (levels.py).
Units       losses and likelihoods are nats per example; only gen_ray/engine converts to bits per dimension.
Precision   tables are float64 and cast once; states are float32.
Randomness  is always an argument: a torch.Generator in training, a RowNoise (noise.py) in sampling.
Letters     B batch, C channels, H height, W width, D scalars of an example, K categories, T steps, N table rows.

Where textbooks and papers disagree, this code follows the papers: the reparametrisation is z = mu + sigma·eps; the
first coefficient of the posterior mean is sqrt(alpha_k)·(1−alpha_bar_{k−1})/(1−alpha_bar_k); beta_tilde is a variance.
"""
