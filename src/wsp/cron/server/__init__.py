"""The cron process: it plans, has commands run, and writes down what came of them."""
