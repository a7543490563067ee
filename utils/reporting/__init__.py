"""What is shown: tables, plots, and the computations behind them."""
