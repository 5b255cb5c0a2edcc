"""What things cost, measured side by side in one run. No test: times do not hold on shared machines."""
