// Package bench measures: how fast messages are published and consumed through
// a Sluice node or straight against Kafka, at what cost in CPU, and how long a
// message takes from publisher to consumer. It is the engine of `sluice bench`
// and of test/bench.
//
// Through Sluice it speaks sluice.v1 over raw gRPC streams, so that batches and
// credits are exactly those that were asked for; an SDK would batch on its own.
// Direct is bare franz-go with acks=all: what an application without Sluice
// would do, and so the thing to take ratios against in the same run. (A batch
// means nothing there: franz-go fills its own.)
//
// On a machine whose CPU is full a rate says little: compare CPU per message.
package bench
