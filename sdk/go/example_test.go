package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicetest"
)

func ExampleConnect() {
	ctx := context.Background()
	fake := sluicetest.New(sluicetest.Config{}) // in production: sluice.Connect(ctx, "a:7600,b:7600", sluice.Token(token))
	defer fake.Close()
	c, err := sluice.Connect(ctx, fake.Addrs(), fake.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()

	r, err := c.Publisher("orders").Publish(ctx, sluice.Message{Key: []byte("u42"), Body: []byte("hello"), Tag: "paid"})
	fmt.Println(r.Status, err)
	// Output: stored <nil>
}

func ExamplePublisher_PublishBatch() {
	ctx := context.Background()
	fake := sluicetest.New(sluicetest.Config{})
	defer fake.Close()
	c, err := fake.Connect(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()

	fake.FailNext(1, &sluice.Error{Reason: sluice.ReasonReservedHeader, Status: sluice.StatusRefused})
	for _, r := range c.Publisher("orders").PublishBatch(ctx, []sluice.Message{{Key: []byte("a")}, {Key: []byte("a")}, {Key: []byte("b")}}) {
		switch {
		case r.Err == nil:
			fmt.Println("stored")
		case sluice.Refused(r.Err):
			fmt.Println("do not send it again unchanged")
		case errors.Is(r.Err, sluice.ReasonPrecedingFailed):
			fmt.Println("held back, to keep the order of its key")
		}
	}
	// Output:
	// do not send it again unchanged
	// held back, to keep the order of its key
	// stored
}

func ExampleClient_Receive() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fake := sluicetest.New(sluicetest.Config{})
	defer fake.Close()
	c, err := fake.Connect(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(context.Background()) }()

	fake.Deliver("orders", sluice.Message{Body: []byte("one")})
	err = c.Receive(ctx, sluice.Subscription{Group: "billing", Topics: []string{"orders"}, Order: sluice.ByKey},
		func(_ context.Context, d *sluice.Delivery) error {
			fmt.Printf("%s\n", d.Body)
			cancel() // a service would end it on a signal
			return nil
		})
	fmt.Println(err)
	// Output:
	// one
	// <nil>
}

func ExampleReceiver_Next() {
	ctx := context.Background()
	fake := sluicetest.New(sluicetest.Config{})
	defer fake.Close()
	c, err := fake.Connect(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()

	fake.Deliver("orders", sluice.Message{Body: []byte("one")})
	r, err := c.Receiver(ctx, sluice.Subscription{Group: "billing", Topics: []string{"orders"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ds, err := r.Next(ctx, 100, 5*time.Second)
	for _, d := range ds {
		fmt.Println(string(d.Body), d.Accept(ctx))
	}
	fmt.Println(err)
	// Output:
	// one <nil>
	// <nil>
}
