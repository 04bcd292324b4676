"""Everything that the server and the optimisers both speak; knows neither of them."""
