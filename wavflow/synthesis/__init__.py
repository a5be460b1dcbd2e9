"""Fast engines that compute what the models define."""
