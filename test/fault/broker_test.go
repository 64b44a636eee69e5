package fault

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/test/harness"
)

// coordinator is the broker that keeps the group's members and positions; of a topic with as many partitions as
// here it leads some too.
func (b *brokers) coordinator(t *testing.T, group string) string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds(b)...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	groups, err := kadm.NewClient(client).DescribeGroups(t.Context(), group)
	if err == nil {
		err = groups.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(int(groups[group].Coordinator.NodeID))
}

func TestBrokerFaultsLoseNothingStored(t *testing.T) {
	faults := []struct {
		name string
		hit  func(t *testing.T, b *brokers, id string)
	}{
		{"killed", func(t *testing.T, b *brokers, id string) {
			b.do(t, "kill", id)
			pause(t.Context(), 10*time.Second)
			b.do(t, "up", id)
		}},
		{"paused for 10 s", func(t *testing.T, b *brokers, id string) {
			b.do(t, "pause", id)
			pause(t.Context(), 10*time.Second)
			b.do(t, "resume", id)
		}},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			b := kafka(t)
			n := harness.Start(t, "--dev", "--set", "embedded.enabled=false")
			n.Must(within(t, 30*time.Second), "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", b.bootstrap)
			l := newLoad(t, topic(t, n, "broker", 6))
			l.consume(n.GRPC, l.topic, time.Millisecond)
			l.publish(n.GRPC, 4, 25, 300, 10*time.Second)
			l.warm(500)
			f.hit(t, b, b.coordinator(t, l.topic))
			before := l.stored()
			eventually(t, time.Minute, "publishing goes on after the fault", func() bool { return l.stored() > before+3000 })
			l.finish()
			b.do(t, "wait", "--timeout", "60")
			found := l.drain(b, l.topic)
			l.quit()

			duplicates, late := l.checkWrites(found)
			l.checkOrder(found)
			all, worst := l.outage()
			t.Log(l.summary())
			t.Logf("longest outage %v, of one partition %v; %d duplicate writes, %d appended after their deadline, %d repeated deliveries, accepts not recorded: %v",
				all.Round(time.Millisecond), worst.Round(time.Millisecond), duplicates, late, len(l.repeats()), l.settleErrors())
			if duplicates > 0 {
				t.Errorf("%d duplicate writes (A8) by an idempotent producer", duplicates)
			}
		})
	}
}

// rotate makes the next replica of each partition its leader, without any broker going away.
func (b *brokers) rotate(t *testing.T, topic string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds(b)...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var to kadm.AlterPartitionAssignmentsReq
	parts := kadm.TopicsSet{}
	for _, p := range topics[topic].Partitions.Sorted() {
		to.Assign(topic, p.Partition, append(p.Replicas[1:len(p.Replicas):len(p.Replicas)], p.Replicas[0]))
		parts.Add(topic, p.Partition)
	}
	if r, err := admin.AlterPartitionAssignments(t.Context(), to); err != nil || r.Error() != nil {
		t.Fatal(errors.Join(err, r.Error()))
	}
	eventually(t, 20*time.Second, "the next replicas lead", func() bool {
		_, err := admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, parts)
		if err != nil {
			return false
		}
		now, err := admin.ListTopics(t.Context(), topic)
		if err != nil {
			return false
		}
		for _, p := range now[topic].Partitions {
			if p.Leader != topics[topic].Partitions[p.Partition].Replicas[1] {
				return false
			}
		}
		return true
	})
}

func TestMovedLeadersRepeatNothing(t *testing.T) {
	b := kafka(t)
	n := harness.Start(t, "--dev", "--set", "embedded.enabled=false")
	n.Must(within(t, 30*time.Second), "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", b.bootstrap)
	l := newLoad(t, topic(t, n, "move", 6))
	l.consume(n.GRPC, l.topic, time.Millisecond)
	l.publish(n.GRPC, 4, 25, 300, 10*time.Second)
	l.warm(500)
	for range 3 {
		b.rotate(t, l.topic)
		before := l.stored()
		eventually(t, 30*time.Second, "publishing goes on", func() bool { return l.stored() > before+500 })
	}
	l.finish()
	found := l.drain(b, l.topic)
	l.quit()
	duplicates, late := l.checkWrites(found)
	l.checkOrder(found)
	all, worst := l.outage()
	t.Log(l.summary())
	t.Logf("longest outage %v, of one partition %v; %d duplicate writes, %d late, %d repeated deliveries",
		all.Round(time.Millisecond), worst.Round(time.Millisecond), duplicates, late, len(l.repeats()))
	if duplicates > 0 || l.stored() != len(l.out) || len(l.repeats()) > 0 {
		t.Errorf("moving leaders must not be noticed: %d of %d stored, %d duplicate writes (A8), %d repeated deliveries", l.stored(), len(l.out), duplicates, len(l.repeats()))
	}
}
