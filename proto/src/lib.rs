//! What the agent says to the dataplane, and the CNI binary to the agent.
