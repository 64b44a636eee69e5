package kafka

import (
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// A broker that has just started may not know a topic yet that another one has already told of.
func TestNewTopicIsKnownToEveryBrokerWhenItsMakingReturns(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const behind = 2 // the broker that learns of the topic late
	var left atomic.Int32
	left.Store(5)
	c.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		if c.CurrentNode() != behind || len(req.Topics) != 1 || left.Load() <= 0 {
			return nil, nil, false
		}
		left.Add(-1)
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.ErrorCode = req.Topics[0].Topic, kerr.UnknownTopicOrPartition.Code
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	d := openDriver(t, Config{Bootstrap: c.ListenAddrs()})
	defer func() { _ = d.Close(t.Context()) }()
	if _, err := d.Caps(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Admin().CreateTopic(t.Context(), mq.TopicSpec{Name: "new", Partitions: 3, Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	if n := left.Load(); n > 0 {
		t.Errorf("making the topic returned while broker %d did not know it (%d more answers)", behind, n)
	}
}
