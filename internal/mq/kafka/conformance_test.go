package kafka

import (
	"testing"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	addrs := realKafka(t)
	mqtest.Run(t, func(t *testing.T) mq.Driver { return openDriver(t, Config{Bootstrap: addrs}) })
}

func TestConformanceOfOldVersions(t *testing.T) {
	t.Parallel()
	old := oldKafkas()
	if len(old) == 0 {
		required(t, "kafka-old", "SLUICE_TEST_KAFKA_OLD")
	}
	for version, addr := range old {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			mqtest.Run(t, func(t *testing.T) mq.Driver { return openDriver(t, Config{Bootstrap: []string{addr}}) })
		})
	}
}
