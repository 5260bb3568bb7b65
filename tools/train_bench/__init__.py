"""What bench_train.py is made of; times whole training loops on real DeepSpeed engines."""
