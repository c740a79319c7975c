"""From records to one compiled plan per path. What is wrong is found here, all of it at once."""
