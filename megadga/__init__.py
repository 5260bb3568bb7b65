"""Online data mixing for language-model pretraining: Dynamic Gradient Alignment under ZeRO."""
