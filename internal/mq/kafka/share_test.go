package kafka

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// nativeMember joins a group with one assignor and polls until the test ends.
func nativeMember(t *testing.T, addrs []string, name string, topic mq.Topic, b kgo.GroupBalancer) *kgo.Client {
	t.Helper()
	assigned := make(chan struct{}, 100)
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.ConsumerGroup(name), kgo.ConsumeTopics(string(topic)), kgo.Balancers(b),
		kgo.HeartbeatInterval(300*time.Millisecond),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { assigned <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		for ctx.Err() == nil {
			cl.PollFetches(ctx)
		}
	}()
	t.Cleanup(func() { cancel(); <-polled; cl.Close() })
	select {
	case <-assigned:
	case <-time.After(20 * time.Second):
		t.Fatal("the native member was not assigned anything within 20 s")
	}
	return cl
}

func ownTopic(t *testing.T, d *Driver, partitions int) mq.Topic {
	t.Helper()
	topic := mq.Topic("kafka-share-" + suffix())
	if err := d.Admin().CreateTopic(t.Context(), mq.TopicSpec{Name: topic, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Admin().DeleteTopic(context.Background(), topic) })
	return topic
}

func TestGroupsAreSharedWithNativeMembers(t *testing.T) {
	t.Parallel()
	addrs := realKafka(t)
	for _, b := range balancers() {
		t.Run(b.ProtocolName(), func(t *testing.T) {
			t.Parallel()
			d := openClosed(t, Config{Bootstrap: addrs})
			topic := ownTopic(t, d, 4)
			name := "kafka-share-" + suffix()
			nativeMember(t, addrs, name, topic, b)
			g, err := d.Group(t.Context(), mq.GroupConfig{Group: name, Topics: []mq.Topic{topic}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for {
				a, err := g.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if len(a.Revoked) > 0 {
					g.Done(a.Epoch)
				}
				if len(a.Owned) == 2 && len(a.Revoked) == 0 {
					break
				}
			}
		})
	}
}

func TestANativeMemberJoinsAGroupOfOurs(t *testing.T) {
	t.Parallel()
	addrs := realKafka(t)
	d := openClosed(t, Config{Bootstrap: addrs})
	topic := ownTopic(t, d, 4)
	name := "kafka-share-" + suffix()
	g, err := d.Group(t.Context(), mq.GroupConfig{Group: name, Topics: []mq.Topic{topic}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var owned []mq.PartitionID
	joined := false
	for len(owned) != 2 {
		a, err := g.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		owned = a.Owned
		if len(a.Revoked) > 0 {
			g.Done(a.Epoch)
			owned = nil
		}
		if len(owned) == 4 && !joined {
			joined = true
			// It knows an eager assignor only: the group has to go over to it.
			go nativeEager(ctx, addrs, name, topic)
		}
	}
	if errs := g.Commit(ctx, g.(*group).lastEpoch(), map[mq.PartitionID]mq.Commit{owned[0]: {Offset: 0}}); len(errs) > 0 {
		t.Errorf("commit after the change of the assignor: %v", errs)
	}
}

func (g *group) lastEpoch() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch
}

func nativeEager(ctx context.Context, addrs []string, name string, topic mq.Topic) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.ConsumerGroup(name), kgo.ConsumeTopics(string(topic)), kgo.Balancers(kgo.RangeBalancer()))
	if err != nil {
		return // the test then runs into its time limit
	}
	defer cl.Close()
	for ctx.Err() == nil {
		cl.PollFetches(ctx)
	}
}

func TestAnUnknownAssignorIsNamed(t *testing.T) {
	t.Parallel()
	addrs := realKafka(t)
	d := openClosed(t, Config{Bootstrap: addrs})
	topic := ownTopic(t, d, 1)
	name := "kafka-share-" + suffix()
	nativeMember(t, addrs, name, topic, renamed{kgo.RangeBalancer(), "house-made"})
	_, err := d.Group(t.Context(), mq.GroupConfig{Group: name, Topics: []mq.Topic{topic}})
	if !errors.Is(err, mq.Invalid) || !strings.Contains(err.Error(), `assignor "house-made"`) {
		t.Errorf("got %v, want class invalid and the name of the assignor", err)
	}
}
