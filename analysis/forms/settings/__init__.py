"""Forms that give the loss at settings of training: learning rate, batch, weight decay."""
