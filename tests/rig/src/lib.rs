//! A worker on replay ports: packets in, packets out, counter differences.
