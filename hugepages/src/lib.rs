//! Memory: map, pin, place on a NUMA node, share by descriptor.
