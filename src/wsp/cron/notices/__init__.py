"""What people are told about jobs and runs: alerts, mails, the dead man's switch."""
