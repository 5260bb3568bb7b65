"""What bench_plan.py is made of; compares predictions with engines that train."""
