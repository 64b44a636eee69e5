// Package publish is the producer proxy's engine. A request goes through it as
//
//	admit -> route -> place -> send -> settle
//
// with a file for each step; Engine.Publish reads as these calls.
//
//   - admit (admit.go, limits.go) refuses what can never be stored and slows down what is too much.
//   - route (route.go, target.go) finds the topic's home and what is known of it. All of that is cached and
//     refreshed behind the publishes: none of them waits for a metadata call but the first one of a topic.
//   - place (place.go, hash.go) is pure: messages and partitions in, a partition for each message out.
//   - send (send.go, stream.go) cuts the batch into slices, one for each partition, and hands them to the driver.
//   - settle (settle.go, verdict.go) judges the driver's answers, retries a failed slice alone, and calls back
//     when each message has a result.
//
// # What is promised
//
// Stored means that the broker acknowledged it. Everything else says whether the
// message was certainly not sent (NotSent), may have been (MaybeSent) or cannot
// be stored as it is (Refused).
//
// Retries: only what the driver reports as certainly not stored is produced
// again, by its class, until the deadline. A MaybeSent answer is final and goes
// to the caller at once: producing the same records anew would be a new write
// even for an idempotent producer, whose own retries of the same write have
// been exhausted by then. So the engine itself never makes a duplicate; a
// caller that sends again keeps the id. Keyed and explicitly placed messages
// stay on their partition; un-keyed ones may move to another broker.
//
// Order of a key: messages of one key are never in flight in two slices of one
// stream at once. Those that come while an earlier one is unsettled are held,
// and go out together once it is settled (so a hot key is written in growing
// batches rather than one message a round trip). After a failed keyed message
// the later ones of its key fail as preceding_failed: in the request, and in a
// stream until the failed sequence (or the same id) is sent again. Across
// requests without a stream there is no order but the caller's waiting for the
// answer. A driver writes the records of one Produce in order; where one of them
// fails and a later one of its key is stored all the same, the failed one is not
// retried, and sluice_publish_order_gaps_total counts it.
//
// Deadline: nothing is sent for the first time after it. A caller that goes away
// ends its waiting, not the write.
//
// # Goroutines and locks
//
// Publish runs on the caller's goroutine. Settling runs on the driver's, except
// that retries and held slices are sent from goroutines of their own, since a
// driver's callback must not block. Stream.mu is the only lock on the path of a
// keyed message and is never held while a driver or a callback is called.
// Drain waits for the batches in flight, then for all goroutines.
package publish
