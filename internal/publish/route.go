package publish

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

// route finds the topic's home and what is known of it. It returns false when
// the batch ended here. Only the first publishes of a topic wait for a cluster.
func (b *batch) route(ctx context.Context) bool {
	e := b.e
	entry, err := e.targets.find(b.req.Topic)
	if err == nil && entry == nil {
		entry, err = e.create(ctx, b)
	}
	if err != nil {
		// A message without a topic cannot be stored as it is; all other reasons may pass.
		status := NotSent
		if err.Reason == fault.TopicNotFound || err.Reason == fault.InvalidArgument {
			status = Refused
		}
		b.failAll(status, err)
		return false
	}
	b.topic = entry
	if b.state, err = entry.target.get(ctx, b.ctx); err != nil {
		status := NotSent
		if err.Reason == fault.TopicNotFound {
			status = Refused
		}
		b.failAll(status, err)
		return false
	}
	return true
}

// create makes a topic at its first use where the node is set to (--dev), and
// waits until the snapshot has it.
func (e *Engine) create(ctx context.Context, b *batch) (*topicEntry, *fault.Error) {
	topic := b.req.Topic
	if err := checkTopicName(topic); err != nil {
		return nil, err
	}
	if !e.cfg.AutoCreate || e.control == nil {
		return nil, fault.New(fault.TopicNotFound, "topic %q does not exist; create it (sluice topic create) or adopt it (sluice topic adopt)", topic)
	}
	ctx, cancel := context.WithDeadline(ctx, b.deadline)
	defer cancel()
	if err := e.control.EnsureTopic(ctx, topic); err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return nil, f
		}
		return nil, fault.Wrap(err, fault.ControlUnavailable, "topic %q does not exist and could not be created: %v", topic, err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if entry, err := e.targets.find(topic); entry != nil || err != nil {
			return entry, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "topic %q was created, but this node has not heard of it yet; try again", topic)
		}
	}
}

// place gives every message its partition and refuses those that have none.
func (b *batch) place() {
	l := b.state.layout
	moved := l.place(b.req.Producer, b.topic.block, b.req.Messages, b.results, b.places)
	if moved > 0 {
		b.e.m.moved.WithLabelValues("placed").Add(float64(moved))
	}
	t := b.state.t
	for i, p := range b.places {
		switch p {
		case noSuch:
			b.fail(i, Refused, fault.New(fault.PartitionNotFound, "topic %s has no partition %q; it has %d", b.req.Topic, b.req.Messages[i].Partition, len(l.parts)))
		case beyond:
			b.fail(i, NotSent, fault.New(fault.Unavailable, "topic %s: the route places keys on %d partitions, but %s on cluster %s has %d; an operator must add partitions", b.req.Topic, l.pinned, t.topic, t.cluster, len(l.parts)))
		case noneAtHand:
			b.fail(i, NotSent, fault.New(fault.Unavailable, "topic %s has no partitions on cluster %s at the moment", t.topic, t.cluster))
		}
	}
}

// routeFault is what a caller hears when a topic's cluster could not be asked.
func routeFault(err error, cluster string, topic mq.Topic) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	switch mq.ClassOf(err) {
	case mq.NotFound:
		return fault.Wrap(err, fault.TopicNotFound, "topic %s does not exist on cluster %s", topic, cluster)
	case mq.Auth:
		return fault.Wrap(err, fault.ClusterAuth, "cluster %s refused the platform's credentials for topic %s; an operator must act", cluster, topic)
	default:
		f = fault.Wrap(err, fault.Unavailable, "topic %s: cluster %s does not answer: %v", topic, cluster, err)
		f.RetryAfter = time.Second
		return f
	}
}
