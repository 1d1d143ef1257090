"""The app of `test_flower.test_killed_nodes`; it tells in a folder how far it is."""

import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    config, number = message.content["config"], context.node_config["partition-id"]
    place = f"{config['phase']}-{config['server-round']}-{number}"
    (Path(context.run_config["folder"]) / place).touch()
    if place in ("first-2-3", "second-1-2"):
        time.sleep(300)  # to be killed in the middle of it
    weights = message.content["arrays"]["weights"].numpy()
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weights": Array(weights + 1)}),
            "metrics": MetricRecord({"client": number}),
        }
    )
    return Message(content, reply_to=message)


@server.main()
def main(grid, context):
    from skpoison.federated import TrimmedMean
    from skpoison.federated.flower import RobustStrategy

    arrays = ArrayRecord({"weights": Array(np.zeros(3, np.float32))})
    for phase in ("first", "second"):
        strategy = RobustStrategy(
            TrimmedMean(),
            n_byzantine=1,
            round_timeout=context.run_config["round-timeout"],
            min_available_nodes=4,
            fraction_evaluate=0.0,
        )
        config = ConfigRecord({"phase": phase})
        arrays = strategy.start(grid, arrays, 2, train_config=config).arrays
        file = Path(context.run_config["folder"]) / f"{phase}.npy"
        np.save(file, arrays["weights"].numpy())
