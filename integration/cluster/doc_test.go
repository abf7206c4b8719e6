// Package cluster tests several gateways at once: three keyholed processes
// over one SoftHSM token and one PostgreSQL, behind HAProxy, under the load of
// agents that use the Go client and count each answer that they did not get.
// Of Keyhole's own packages it uses what its users have: client, gateway/api,
// keys and audit; softhsm and store/postgrestest start what Keyhole stands on.
//
// KEYHOLE_CLUSTER_LONG=1 makes the tests longer, as they are run by hand: more
// rounds, longer outages, agents that do not pause.
package cluster
