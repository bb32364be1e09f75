"""`ois bench capacity`: what many replicas behind consistent hashing can serve, by simulation."""
