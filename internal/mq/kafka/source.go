package kafka

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// maxFetchResponse bounds one answer of a broker, if its first batch is not larger.
const maxFetchResponse = 8 << 20

// source polls one broker while there are partitions that want more of it. The fetcher's lock guards it.
type source struct {
	f       *fetcher
	broker  int32
	running bool
	// cancel ends the long poll under way; nil while none is, or where it is short anyway.
	cancel  context.CancelFunc
	backoff time.Time
}

// polled is a cursor in a poll, as it was when the poll began.
type polled struct {
	c      *cursor
	offset int64
	seek   int
	max    int32
}

// start needs f.mu.
func (s *source) start() {
	if s.running {
		s.kick()
		return
	}
	s.running = true
	s.f.wg.Go(s.run)
}

// kick ends a long poll, so that a partition which is not in it need not wait. The connection is lost with it, so this is
// for what is rare: a new partition, a jump. It needs f.mu.
func (s *source) kick() {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}

func (s *source) run() {
	for {
		s.f.mu.Lock()
		batch, wait := s.collect()
		if len(batch) == 0 || s.f.closed {
			s.running = false
			s.f.mu.Unlock()
			return
		}
		pause := time.Until(s.backoff)
		ctx, cancel := context.WithCancel(s.f.ctx)
		if wait > shortPoll && pause <= 0 {
			s.cancel = cancel
		}
		s.f.mu.Unlock()

		if pause > 0 {
			s.rest(pause, batch)
			cancel()
			continue
		}
		req := s.request(batch, wait)
		kresp, err := s.f.cl.Broker(int(s.broker)).Request(ctx, req)

		s.f.mu.Lock()
		kicked := s.cancel == nil && wait > shortPoll
		s.cancel = nil
		s.f.mu.Unlock()
		cancel()
		switch {
		case err != nil && kicked:
			s.put(batch)
		case err != nil:
			s.failed(batch, transportError(err))
		default:
			s.deliver(batch, kresp.(*kmsg.FetchResponse))
		}
	}
}

// rest waits out a pause after a failure.
func (s *source) rest(pause time.Duration, batch []polled) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.f.ctx.Done():
	}
	s.put(batch)
}

// put gives cursors back unpolled.
func (s *source) put(batch []polled) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for _, b := range batch {
		if b.c.seek == b.seek {
			b.c.polling = false
		}
	}
}

// collect takes the partitions that this broker leads and that want more, and says how long the poll may
// last: long only if no partition of the broker is left out, since one that wants in has to wait for its end.
func (s *source) collect() ([]polled, time.Duration) {
	var batch []polled
	wait := s.f.d.cfg.FetchWait
	now := time.Now()
	for _, c := range s.f.cursors {
		if c.polling || s.f.sourceOf(c) != s {
			continue
		}
		if !s.f.hungry(c) || now.Before(c.notBefore) {
			wait = shortPoll
			continue
		}
		if s.recreated(c) {
			continue
		}
		c.polling = true
		batch = append(batch, polled{c, c.want, c.seek, int32(c.maxBytes)})
	}
	return batch, wait
}

// recreated compares the topic's id with the one that reading began on. It needs f.mu.
func (s *source) recreated(c *cursor) bool {
	tm := s.f.d.meta.cached(c.id.Topic)
	if tm == nil || tm.id == ([16]byte{}) {
		return false
	}
	if !c.hasID {
		c.topicID, c.hasID = tm.id, true
		return false
	}
	if c.topicID == tm.id {
		return false
	}
	s.f.startOver(c, true)
	return true
}

func (s *source) request(batch []polled, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(wait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = maxFetchResponse
	req.IsolationLevel = 1 // read committed
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	topics := map[mq.Topic]int{}
	for _, b := range batch {
		i, ok := topics[b.c.id.Topic]
		if !ok {
			i = len(req.Topics)
			topics[b.c.id.Topic] = i
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = string(b.c.id.Topic), b.c.topicID
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = b.c.id.Index, b.offset, b.max
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	return req
}

// failed: the broker did not answer.
func (s *source) failed(batch []polled, e *mq.Error) {
	e.Broker = strconv.Itoa(int(s.broker))
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.backoff = time.Now().Add(fetchPause)
	for _, b := range batch {
		if b.c.seek != b.seek {
			continue
		}
		b.c.polling = false
		b.c.err = e
		s.f.d.m.fetchErrors.WithLabelValues(e.Class.Error()).Inc()
		s.f.d.meta.refresh(b.c.id.Topic)
		b.c.signal()
	}
}

func (s *source) deliver(batch []polled, resp *kmsg.FetchResponse) {
	if resp.ErrorCode != 0 {
		s.failed(batch, codeError(resp.ErrorCode, "", nil))
		return
	}
	filled := 0
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if len(resp.Topics[i].Partitions[j].RecordBatches) > 0 {
				filled++
			}
		}
	}
	for _, b := range batch {
		rp := s.partOf(resp, b.c)
		if rp == nil {
			s.broken(b, mq.Errorf(mq.Conn, "the broker left the partition out of its answer"))
			continue
		}
		if rp.ErrorCode != 0 {
			s.refused(b, rp)
			continue
		}
		if filled > 1 {
			// Else one record that is kept keeps all partitions' bytes in memory.
			rp.RecordBatches = slices.Clone(rp.RecordBatches)
		}
		s.fill(b, rp)
	}
}

func (s *source) partOf(resp *kmsg.FetchResponse, c *cursor) *kmsg.FetchResponseTopicPartition {
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if resp.Version >= 13 && t.TopicID != c.topicID || resp.Version < 13 && t.Topic != string(c.id.Topic) {
			continue
		}
		for j := range t.Partitions {
			if t.Partitions[j].Partition == c.id.Index {
				return &t.Partitions[j]
			}
		}
	}
	return nil
}

// fill decodes outside the lock and appends to the buffer.
func (s *source) fill(b polled, rp *kmsg.FetchResponseTopicPartition) {
	records, next, e := s.f.dec.decode(b.c.id, b.offset, rp)
	size := 0
	for i := range records {
		size += records[i].Bytes()
	}
	f, c := s.f, b.c
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.seek != b.seek {
		return
	}
	c.polling = false
	c.high = rp.HighWatermark
	f.d.m.fetchBytes.Add(float64(len(rp.RecordBatches)))
	switch {
	case e != nil:
		f.d.m.skippedBatch.Inc()
		c.err, c.final = e, true
	case next == b.offset && len(rp.RecordBatches) > 0:
		// Brokers before 0.10.1 cut what is larger than asked for; they are asked for more.
		if c.maxBytes >= f.d.cfg.MaxBatch {
			c.err, c.final = mq.Errorf(mq.TooLarge, "topic %s, partition %s: the record at offset %d is larger than %d bytes",
				c.id.Topic, c.id, b.offset, f.d.cfg.MaxBatch), true
			break
		}
		c.maxBytes = min(2*c.maxBytes, f.d.cfg.MaxBatch)
		return
	default:
		c.err, c.final = nil, false
		c.records = append(c.records, records...)
		c.bytes += size
		f.bytes += size
		c.next, c.want = next, next
		if next == b.offset {
			return // an empty poll
		}
	}
	c.signal()
}

// refused: the broker answered with an error for one partition.
func (s *source) refused(b polled, rp *kmsg.FetchResponseTopicPartition) {
	e := codeError(rp.ErrorCode, strconv.Itoa(int(s.broker)), nil)
	switch rp.ErrorCode {
	case kerr.OffsetOutOfRange.Code:
		s.f.mu.Lock()
		if b.c.seek == b.seek {
			b.c.high = rp.HighWatermark
			s.f.startOver(b.c, false)
		}
		s.f.mu.Unlock()
	case kerr.UnknownTopicID.Code, kerr.InconsistentTopicID.Code:
		s.broken(b, mq.Errorf(mq.NotLeader, "topic %s was deleted or made anew", b.c.id.Topic))
	case kerr.TopicAuthorizationFailed.Code:
		s.f.mu.Lock()
		if b.c.seek == b.seek {
			b.c.polling, b.c.err, b.c.final = false, e, true
			b.c.signal()
		}
		s.f.mu.Unlock()
	default:
		s.broken(b, e)
	}
}

// broken: c cannot be read now; its topic is looked up, and it is tried again after a pause.
func (s *source) broken(b polled, e *mq.Error) {
	s.f.d.m.fetchErrors.WithLabelValues(e.Class.Error()).Inc()
	f, c := s.f, b.c
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.seek != b.seek {
		return
	}
	c.polling = false
	c.err = e
	c.notBefore = time.Now().Add(fetchPause)
	f.wakeLater(c)
	c.signal()
}
