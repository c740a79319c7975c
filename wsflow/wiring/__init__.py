"""From declarations to one compiled plan per path. All mistakes are found here, at start-up."""
