"""What a run shows of itself: metrics and where they go, evaluations, samples, traces."""
