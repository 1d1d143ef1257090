from accelerate import Accelerator
from sklearn.datasets import load_digits

from skpoison.defenses import MixupClassifier
from skpoison.models import ConvNet, SplitBatches


def main():
    accelerator = Accelerator()  # connects the processes, one a GPU
    X, y = load_digits(return_X_y=True)
    X = (X / 16).reshape(-1, 1, 8, 8)
    model = MixupClassifier(
        ConvNet,
        batch_size=128,  # of all processes together
        max_epochs=15,
        callbacks=[SplitBatches()],
        device=accelerator.device,
        random_state=0,
    ).fit(X[:1500], y[:1500])
    accelerator.print("processes:", accelerator.num_processes)
    accelerator.print("accuracy above 0.9:", model.score(X[1500:], y[1500:]) > 0.9)


if __name__ == "__main__":
    main()
