package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// retryPause is waited before a batch whose outcome is unknown is sent again.
const retryPause = 100 * time.Millisecond

// verdict is what a broker's answer says of a batch.
type verdict int

const (
	stored      verdict = iota
	degraded            // in the leader's log, with fewer replicas than asked for
	refused             // certainly not appended, and a retry will not help
	elsewhere           // certainly not appended; another leader may take it
	tooLarge            // certainly not appended; a smaller batch may be taken
	short               // certainly not appended, for want of replicas
	unknown             // appended or not: ask again
	badSequence         // the broker does not know this producer, or not at this point
)

// judge reads an answer. For codes that a broker gives both before an append and after one, while it waits for its
// replicas (DelayedProduce: time-out, lost leadership), the base offset decides: after an append it is the offset that the
// batch got, before one it is -1.
func judge(rp *kmsg.ProduceResponseTopicPartition) verdict {
	switch rp.ErrorCode {
	case 0, kerr.DuplicateSequenceNumber.Code:
		return stored
	case kerr.NotEnoughReplicasAfterAppend.Code:
		return degraded
	case kerr.NotEnoughReplicas.Code:
		return short
	case kerr.MessageTooLarge.Code, kerr.RecordListTooLarge.Code:
		return tooLarge
	case kerr.OutOfOrderSequenceNumber.Code, kerr.UnknownProducerID.Code, kerr.InvalidProducerEpoch.Code:
		return badSequence
	case kerr.NotLeaderForPartition.Code, kerr.LeaderNotAvailable.Code, kerr.UnknownTopicOrPartition.Code, kerr.ReplicaNotAvailable.Code,
		kerr.FencedLeaderEpoch.Code, kerr.UnknownLeaderEpoch.Code, kerr.UnknownTopicID.Code, kerr.InconsistentTopicID.Code, kerr.ThrottlingQuotaExceeded.Code:
		if rp.BaseOffset >= 0 {
			return unknown
		}
		return elsewhere
	case kerr.CorruptMessage.Code, kerr.InvalidTopicException.Code, kerr.InvalidRequiredAcks.Code, kerr.TopicAuthorizationFailed.Code,
		kerr.ClusterAuthorizationFailed.Code, kerr.InvalidTimestamp.Code, kerr.UnsupportedVersion.Code, kerr.InvalidRequest.Code,
		kerr.UnsupportedForMessageFormat.Code, kerr.PolicyViolation.Code, kerr.UnsupportedCompressionType.Code, kerr.InvalidRecord.Code:
		return refused
	}
	// REQUEST_TIMED_OUT: in the leader's log, not on its replicas. KAFKA_STORAGE_ERROR: the disk failed in the append; what it
	// holds is not known. UNKNOWN_SERVER_ERROR, and codes of later versions: anything.
	return unknown
}

// settle applies a broker's answer to the batch in flight of q, and lets it go on.
func (p *producer) settle(q *queue, rp *kmsg.ProduceResponseTopicPartition, broker string) {
	v := judge(rp)
	var e *mq.Error
	if rp.ErrorCode != 0 {
		e = codeError(rp.ErrorCode, broker, rp.ErrorMessage)
	}
	if v == unknown {
		p.unanswered(q, e)
		return
	}
	var as answers
	q.mu.Lock()
	f := q.flight
	if f == nil {
		q.mu.Unlock()
		return
	}
	// A refusal of this attempt says nothing of an earlier one that was never answered.
	if f.unsure && v != stored && v != degraded {
		if v == badSequence || v == refused || v == tooLarge {
			e.MaybeSent = true
			q.settleFlight(e, &as)
			q.bump()
			q.mu.Unlock()
			as.call()
			p.again(q)
			return
		}
		q.lastErr = e
		q.mu.Unlock()
		p.retryLater(q, e)
		return
	}
	refresh := false
	switch v {
	case stored, degraded:
		q.stored(f, rp.BaseOffset, e, v == degraded, &as)
	case refused:
		q.settleFlight(e, &as)
	case short:
		q.unform()
		q.failAll(e, &as)
	case tooLarge:
		q.split(f, e, &as)
	case badSequence:
		q.unform()
		q.bump()
	default: // elsewhere
		q.unform()
		q.lastErr = e
		refresh = true
	}
	q.mu.Unlock()
	as.call()
	if refresh {
		p.park(q, e)
		return
	}
	p.again(q)
}

// stored settles the records of the flight at their offsets.
func (q *queue) stored(f *flight, base int64, e *mq.Error, degraded bool, as *answers) {
	if q.ident.pid >= 0 {
		// Sequences wrap at 2^31 back to 0.
		q.ident.seq = int32((int64(q.ident.seq) + int64(f.count)) & 0x7fffffff)
	}
	q.trouble, q.lastErr = time.Time{}, nil
	q.p.d.m.records.Add(float64(f.count))
	var err error
	if degraded {
		err = e
	}
	offset := base
	for _, s := range f.spans {
		if s.it.answered {
			q.p.d.m.late.WithLabelValues("stored").Add(float64(s.to - s.from))
		}
		for i := s.from; i < s.to; i++ {
			at := offset
			if base < 0 {
				at = -1 // a duplicate whose place the broker has forgotten
			} else {
				offset++
			}
			s.it.results[i] = mq.Result{Offset: at, Err: err}
		}
	}
	q.land(f, as)
}

// settleFlight fails the records of the flight and leaves what waits behind alone.
func (q *queue) settleFlight(e *mq.Error, as *answers) {
	f := q.flight
	what := "failed"
	if e.MaybeSent {
		what = "unknown"
	}
	for _, s := range f.spans {
		if s.it.answered {
			q.p.d.m.late.WithLabelValues(what).Add(float64(s.to - s.from))
		}
		for i := s.from; i < s.to; i++ {
			s.it.results[i] = mq.Result{Offset: -1, Err: e}
		}
	}
	q.land(f, as)
}

// land ends the flight: settled calls leave the queue.
func (q *queue) land(f *flight, as *answers) {
	for _, s := range f.spans {
		s.it.next, s.it.flying = s.to, 0
	}
	q.flight = nil
	n := 0
	for _, it := range q.items {
		if it.next < it.end {
			break
		}
		q.finish(it, as)
		q.items[n] = nil
		n++
	}
	q.items = q.items[n:]
	if len(q.items) == 0 {
		q.items = nil
	}
}

// unform undoes a flight that was certainly not appended: its records wait as before, those of callers that have been
// answered are dropped.
func (q *queue) unform() {
	f := q.flight
	q.flight = nil
	var as answers
	for _, s := range f.spans {
		s.it.flying = 0
		if s.it.answered {
			q.p.d.m.late.WithLabelValues("failed").Add(float64(s.to - s.from))
			s.it.end = s.it.next
		}
	}
	kept := q.items[:0]
	for _, it := range q.items {
		if it.answered {
			q.finish(it, &as) // answered already: only its bytes are freed
			continue
		}
		kept = append(kept, it)
	}
	clear(q.items[len(kept):])
	q.items = kept
}

// split makes batches smaller, or fails a record that is too large by itself.
func (q *queue) split(f *flight, e *mq.Error, as *answers) {
	if f.count == 1 {
		q.settleFlight(e, as)
		return
	}
	q.p.d.m.batchSplits.Inc()
	q.cut = max(f.bytes/2, 1024)
	q.unform()
}

// unanswered: the flight may or may not be appended. Idempotent, it is sent again until the broker tells; else
// its callers learn that nobody knows.
func (p *producer) unanswered(q *queue, e *mq.Error) {
	var as answers
	q.mu.Lock()
	f := q.flight
	if f == nil {
		q.mu.Unlock()
		return
	}
	f.unsure = true
	maybe := *e
	maybe.MaybeSent = true
	q.lastErr = &maybe
	if f.id.pid < 0 {
		q.settleFlight(&maybe, &as)
		q.mu.Unlock()
		as.call()
		p.d.meta.refresh(q.id.Topic)
		p.again(q)
		return
	}
	q.mu.Unlock()
	p.retryLater(q, &maybe)
}

// retryLater sends the flight of q again after a pause, to whoever leads then, unless it hangs too long.
func (p *producer) retryLater(q *queue, e *mq.Error) {
	p.d.m.retries.WithLabelValues("unknown_outcome").Inc()
	p.d.meta.refresh(q.id.Topic)
	var as answers
	q.mu.Lock()
	if f := q.flight; f != nil && (p.now().Sub(f.at) > p.d.cfg.HangTimeout || p.d.ctx.Err() != nil) {
		p.giveUp(q, &as)
	}
	q.mu.Unlock()
	as.call()
	if !p.spawn(func() {
		select {
		case <-time.After(retryPause):
		case <-p.d.ctx.Done():
		}
		p.again(q)
	}) {
		p.abort(q, errClosed())
	}
}

// giveUp ends a flight whose outcome will not be known, and fences it off. It needs q.mu.
func (p *producer) giveUp(q *queue, as *answers) {
	e := &mq.Error{Class: mq.Timeout, MaybeSent: true, Msg: "the broker never told what became of the write"}
	if q.lastErr != nil {
		e.Cause = q.lastErr
	}
	p.d.log.Warn("a write was given up without an outcome", "topic", q.id.Topic, "partition", q.id.String(),
		"records", q.flight.count, "took", p.now().Sub(q.flight.at), "err", q.lastErr)
	q.settleFlight(e, as)
	q.bump()
	q.trouble = time.Time{}
}

// again dispatches a queue that has more to send, and lets go of one that has not.
func (p *producer) again(q *queue) {
	q.mu.Lock()
	if len(q.items) == 0 && q.flight == nil {
		q.busy = false
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	p.dispatch(q)
}
