package kafka

import (
	"slices"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// sender writes to one broker. While Config.InFlight requests are out, partitions that become ready are
// collected and leave together.
type sender struct {
	p      *producer
	broker int32

	mu    sync.Mutex // guards the rest
	ready []*queue
	out   int
}

// add takes a queue that has something to send and nothing in flight.
func (s *sender) add(q *queue) {
	s.mu.Lock()
	s.ready = append(s.ready, q)
	start := s.out < s.p.d.cfg.InFlight
	if start {
		s.out++
	}
	s.mu.Unlock()
	if start && !s.p.spawn(s.run) {
		s.mu.Lock()
		s.out--
		qs := s.ready
		s.ready = nil
		s.mu.Unlock()
		for _, q := range qs {
			s.p.abort(q, errClosed())
		}
	}
}

func (s *sender) run() {
	for {
		s.mu.Lock()
		if len(s.ready) == 0 {
			s.out--
			s.mu.Unlock()
			return
		}
		qs := s.ready
		s.ready = nil
		s.mu.Unlock()
		s.send(qs)
	}
}

func (s *sender) send(qs []*queue) {
	req := &produceRequest{p: s.p, queues: qs}
	// The callers' contexts are not used: a write that was handed over is never cancelled.
	kresp, err := s.p.d.data.Broker(int(s.broker)).Request(s.p.d.ctx, req)
	if !req.written.Load() {
		s.unwritten(qs, err)
		return
	}
	for _, q := range qs {
		if !slices.Contains(req.taken, q) {
			s.p.again(q) // nothing to send, or no room
		}
	}
	if err != nil {
		e := s.named(transportError(err))
		for _, q := range req.taken {
			s.p.unanswered(q, e)
		}
		return
	}
	resp := kresp.(*kmsg.ProduceResponse)
	s.p.d.m.batches.Add(float64(len(req.taken)))
	for _, q := range req.taken {
		if rp := answerFor(resp, q.id); rp != nil {
			s.p.settle(q, rp, s.name())
		} else {
			s.p.unanswered(q, s.named(mq.Errorf(mq.Conn, "the broker left the partition out of its answer")))
		}
	}
}

// unwritten: nothing of the request was ever serialised, so everything is as before; the leader may have moved.
func (s *sender) unwritten(qs []*queue, err error) {
	e := s.named(transportError(err))
	for _, q := range qs {
		s.p.park(q, e)
	}
}

func (s *sender) name() string { return strconv.Itoa(int(s.broker)) }

func (s *sender) named(e *mq.Error) *mq.Error {
	c := *e
	if c.Broker == "" {
		c.Broker = s.name()
	}
	return &c
}

func answerFor(resp *kmsg.ProduceResponse, id mq.PartitionID) *kmsg.ProduceResponseTopicPartition {
	for i := range resp.Topics {
		if resp.Topics[i].Topic != string(id.Topic) {
			continue
		}
		for j := range resp.Topics[i].Partitions {
			if p := &resp.Topics[i].Partitions[j]; p.Partition == id.Index {
				return p
			}
		}
	}
	return nil
}
