"""What stands between clients and replicas: which requests pass, and Envoy in front of replicas.

`rules.py` says which requests may reach Triton. nginx (`docker/nginx_conf.py`, one host) and Envoy
(`configuration.py`, several machines) both follow it.
"""
