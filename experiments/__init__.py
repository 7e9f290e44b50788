"The long runs that the chapters load, one command each: python -m experiments.ladder."
