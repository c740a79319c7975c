"""The same workloads on other libraries, as their documentation would have them written."""
