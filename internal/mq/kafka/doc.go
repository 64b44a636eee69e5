// Package kafka is the mq driver for Apache Kafka 0.10.0 to 4.x, on franz-go.
//
// It owns connections, metadata, the wire forms of records, group membership
// and offsets of one cluster. It promises what mq.Driver asks for; engines
// call it and know nothing of Kafka.
//
// # What is the library's and what is ours
//
// franz-go (kgo) gives connections, SASL, version negotiation, coordinator
// look-up, retries of plain requests, and the classic group protocol. Produce
// and Fetch requests are our own, sent through kgo's connections, because of
// three things that its producer and consumer do not offer:
//
//   - A record that was never handed to a socket must be provably "not sent" at
//     the caller's deadline. So callers' records wait in our own queue per
//     partition, and a batch is formed in the moment the request is written
//     (see produceRequest.AppendTo): what expired before is answered "not
//     sent" and can never leave later.
//   - A write in flight is never cancelled (franz-go issue 1217 lost
//     acknowledged records that way), yet the caller gets a bounded answer, and
//     NOT_ENOUGH_REPLICAS_AFTER_APPEND is a result here, not a silent retry.
//   - A fetch of any offset at any time, with a bounded buffer per partition
//     that survives a rebalance which takes other partitions away.
//
// # Producing
//
// One batch is in flight per partition; what arrives meanwhile forms the next
// one, so concurrent callers share batches without a linger. A batch whose
// answer is unknown is sent again with the same producer id, epoch and sequence
// until the broker tells, or for Config.HangTimeout; then the partition goes on
// with the next epoch, which makes the broker refuse the abandoned batch should
// it still arrive. On brokers before 0.11 nothing is sent twice.
//
// # Goroutines and locks
//
// Every goroutine belongs to a Driver and is waited for by Close: senders (up
// to Config.InFlight per broker while there is work), fetch loops (one per
// broker and group while there is something to fetch), a metadata refresher
// while one is wanted. Lock order: queue.mu before sender.mu before metadata.mu;
// nothing is sent, and no caller's function called, under a lock.
//
// # Environment of the tests
//
// SLUICE_TEST_KAFKA names a current broker; SLUICE_TEST_KAFKA_OLD further ones
// as "1.1.1=127.0.0.1:30292,0.10.2.2=127.0.0.1:30392". SLUICE_TEST_REQUIRE lists
// what must not be skipped: kafka, kafka-old. Tests that break brokers drive the whole binary, in test/fault.
package kafka
